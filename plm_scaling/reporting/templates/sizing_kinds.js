// Worked examples: every kind of question of an examples file, answered by the same functions as the page's.
// The inputs, outputs and formulas of each kind stand in the file's own `kinds`.
(function (root) {
"use strict";

const { LOG6, minimise, fallingRoot, logWorth, logAdd } = root.sizingMath;

// ---- laws as the examples write them: E, A, B or their logarithms lnE, lnA, lnB -----------------------------------

function given(law, name) {
  if (law[name] !== undefined && law[name] !== null) return law[name];
  if (law["ln" + name] !== undefined) return Math.exp(law["ln" + name]);
  throw new Error("the law lacks " + name);
}

function logGiven(law, name) {
  if (law["ln" + name] !== undefined && law["ln" + name] !== null) return law["ln" + name];
  return Math.log(given(law, name));
}

function parse(law) {
  const known = ["chinchilla", "gamma", "muennighoff"];
  if (law.form !== undefined && !known.includes(law.form)) throw new Error("no form is called " + law.form);
  const lnA = logGiven(law, "A"), lnB = logGiven(law, "B"), { alpha, beta } = law;
  const gamma = law.form === "gamma" ? given(law, "gamma") : 1;
  const E = given(law, "E");
  const lnG = (Math.log(alpha) + lnA - Math.log(beta) - lnB) / (alpha + beta);
  return { E, lnA, lnB, alpha, beta, gamma, lnG, R_D: law.R_D_star, R_N: law.R_N_star };
}

function atLogs(law, logN, logD) {
  const n = law.lnA - law.alpha * logN, d = law.lnB - law.beta * logD;
  return law.E + (law.gamma === 1 ? Math.exp(n) + Math.exp(d) : Math.exp(law.gamma * logAdd(n, d)));
}

// Loss of N parameters on D tokens of which U are unique (muennighoff).
function repeated(law, logN, logD, logU) {
  if (!(logU > -Infinity)) return Infinity;
  const d = logD <= logU ? logD : logU + logWorth(law.R_D, Math.expm1(logD - logU));
  const room = law.lnG + (law.beta / law.alpha) * (logU + law.lnG);
  const n = logN <= room ? logN : room + logWorth(law.R_N, Math.expm1(Math.min(logN - room, 700)));
  return law.E + Math.exp(law.lnA - law.alpha * n) + Math.exp(law.lnB - law.beta * d);
}

// ln of what one more ln N saves over what one more ln D saves: the loss falls with N where this is above zero. Kept
// in logs, since tokens and parameters repeated a hundred times save less than a loss has digits.
function sizeOverTokens(law, logN, logD, logU) {
  const room = law.lnG + (law.beta / law.alpha) * (logU + law.lnG);
  const [n, nShare] = decayed(logN, room, law.R_N), [d, dShare] = decayed(logD, logU, law.R_D);
  return Math.log(law.alpha) + law.lnA - law.alpha * n + nShare - (Math.log(law.beta) + law.lnB - law.beta * d + dShare);
}

// ln of the effective amount, and ln of its elasticity in the whole amount.
function decayed(whole, unique, limit) {
  if (whole <= unique) return [whole, 0];
  const repeats = Math.expm1(Math.min(whole - unique, 700)), worth = unique + logWorth(limit, repeats);
  return [worth, whole - repeats / limit - worth];
}

function optimum(law, C) {
  const logND = Math.log(C) - LOG6;
  const logN = law.lnG + (law.beta / (law.alpha + law.beta)) * logND;
  const N = Math.exp(logN), D = C / (6 * N);
  return { logN, N, D, loss: atLogs(law, logN, Math.log(D)) };
}

// The lowest of the points where f stops falling, told by the sign of `falls`.
function lowestWhereFlat(f, falls, low, high, steps) {
  const ends = [low, high].map(x => ({ x, value: f(x) }));
  let best = ends[0].value <= ends[1].value ? ends[0] : ends[1], before = falls(low);
  const width = (high - low) / steps;
  for (let i = 1; i <= steps; i++) {
    const x = low + width * i, here = falls(x);
    if (before > 0 && here <= 0) {
      const at = fallingRoot(falls, x - width, x), value = f(at);
      if (value <= best.value) best = { x: at, value };
    }
    before = here;
  }
  return best;
}

const around = logN => [logN - 14, logN + 14];

// ---- kinds --------------------------------------------------------------------------------------------------------

function optimum6nd(q) {
  const found = optimum(parse(q.law), q.C_flops);
  return { N_params: found.N, D_tokens: found.D, loss_nats: found.loss, tokens_per_param: found.D / found.N };
}

function optimumExactFlops(q) {
  const law = parse(q.law), C = q.C_flops, s = q.seq_len_tokens, r = q.width_per_layer;
  const logCost = x => LOG6 + x + Math.log1p(s / (6 * Math.exp((x + Math.log(r / 12)) / 3)));
  const loss = x => atLogs(law, x, Math.log(C) - logCost(x));
  const found = minimise(loss, Math.log(1e6), Math.log(1e12), 2000), six = optimum(law, C);
  return {
    N_params: Math.exp(found.x), D_tokens: Math.exp(Math.log(C) - logCost(found.x)), loss_nats: found.value,
    N_6nd_params: six.N, regret_6nd_choice_nats: loss(six.logN) - found.value,
    token_shortfall_fraction: -Math.expm1(LOG6 + six.logN - logCost(six.logN)),
  };
}

function lossRepeatedData(q) {
  return { loss_nats: repeated(parse(q.law), Math.log(q.N_params), Math.log(q.D_tokens), Math.log(q.unique_tokens)) };
}

function optimumDataConstrained(q) {
  const law = parse(q.law), C = q.C_flops, logU = Math.log(q.unique_tokens), logND = Math.log(C) - LOG6;
  const free = optimum(law, C), loss = x => repeated(law, x, logND - x, logU);
  const falls = x => sizeOverTokens(law, x, logND - x, logU);
  const found = lowestWhereFlat(loss, falls, ...around(free.logN), 1600), N = Math.exp(found.x), D = C / (6 * N);
  return {
    N_params: N, D_tokens: D, epochs: D / q.unique_tokens, loss_nats: found.value,
    loss_if_unlimited_N_kept_nats: loss(free.logN),
    unlimited_N_params: free.N, unlimited_D_tokens: free.D, unlimited_loss_nats: free.loss,
  };
}

function repeatValue(q) {
  const R = q.R_D_star, more = q.epochs - 1;
  return {
    D_eff_over_unique: 1 - R * Math.expm1(-more / R), marginal_value_fraction: Math.exp(-more / R),
    max_D_eff_over_unique: 1 + R,
  };
}

function repeatHorizon(q) {
  return { epochs: 1 - q.R_D_star * Math.log(q.marginal_value_fraction) };
}

// On the curve of equal loss the share w of A N^-alpha in l - E falls as N grows; its log-odds have no ends.
function leastLifetime(law, target, T) {
  const reducible = Math.log(target - law.E) / law.gamma;
  if (!(target > law.E)) throw new Error("no model reaches a loss of " + target + ": the floor is " + law.E);
  const logN = odds => (law.lnA - reducible + softLog(odds)) / law.alpha;
  const logD = odds => (law.lnB - reducible + softLog(-odds)) / law.beta;
  // odds = ln((1 - w) / w): the wanted point has ln(alpha w / (beta (1 - w))) = ln(1 + T / (3 D)).
  const excess = odds => Math.log(law.alpha / law.beta) - odds - Math.log1p(T / 3 * Math.exp(-logD(odds)));
  const odds = fallingRoot(excess, -700, 700), N = Math.exp(logN(odds)), D = Math.exp(logD(odds));
  return { N, D, train: 6 * N * D, serve: 2 * N * T };
}

function softLog(odds) {  // -ln of the share 1 / (1 + e^odds)
  return Math.max(odds, 0) + Math.log1p(Math.exp(-Math.abs(odds)));
}

function inferenceAdjusted(q) {
  const law = parse(q.law), T = q.inference_tokens, found = leastLifetime(law, q.target_loss_nats, T);
  const plain = leastLifetime(law, q.target_loss_nats, 0), total = found.train + found.serve;
  return {
    N_params: found.N, D_tokens: found.D, train_flops: found.train, inference_flops: found.serve, total_flops: total,
    saving_fraction: 1 - total / (plain.train + 2 * plain.N * T),
  };
}

function dataPrice(q) {
  const law = parse(q.law), B = q.budget_usd, p = q.usd_per_flop, price = q.usd_per_token;
  const logD = x => Math.log(B) - Math.log(6 * p * Math.exp(x) + price);
  // Falls with N: what the last parameter brings over what the last token brings, less the ratio of their prices.
  const excess = x => Math.log(law.alpha / law.beta) + law.lnA - law.lnB - law.alpha * x + law.beta * logD(x)
    + Math.log1p(price / (6 * p * Math.exp(x)));
  const x = fallingRoot(excess, -50, 160), N = Math.exp(x), D = Math.exp(logD(x));
  return {
    N_params: N, D_tokens: D, loss_nats: atLogs(law, x, Math.log(D)), data_usd: price * D, compute_usd: 6 * p * N * D,
    parity_N_params: price / (6 * p),
  };
}

function collectOrGrow(q) {
  const law = parse(q.law), B = q.budget_usd, p = q.usd_per_flop, price = q.usd_per_token, U0 = q.free_unique_tokens;
  const bestN = (money, U) => {
    const logND = Math.log(money / (6 * p)), centre = law.lnG + (law.beta / (law.alpha + law.beta)) * logND;
    return minimise(x => repeated(law, x, logND - x, Math.log(U)), ...around(centre), 280);
  };
  let U = U0, found = bestN(B, U0), money = B;
  if (price > 0) {
    const all = Math.log(B / price), at = v => bestN(B - price * Math.exp(v), U0 + Math.exp(v)).value;
    const bought = minimise(at, all - 30, all - 1e-9, 240);
    if (bought.value < found.value - 1e-13) {
      U = U0 + Math.exp(bought.x); money = B - price * Math.exp(bought.x); found = bestN(money, U);
    }
  } else {  // tokens for nothing: as many new ones as are trained on
    const free = optimum(law, B / p);
    if (free.D > U0) { U = free.D; found = { x: free.logN, value: free.loss }; }
  }
  const N = Math.exp(found.x), D = money / (6 * p * N);
  return {
    N_params: N, D_tokens: D, unique_tokens: U, epochs: D / U, new_tokens: U - U0, data_usd: price * (U - U0),
    loss_nats: found.value,
  };
}

function decisionRegret(q) {
  const C = q.C_flops, logND = Math.log(C) - LOG6;
  const laws = q.law_draws.map(parse), own = laws.map(law => optimum(law, C)), K = laws.length;
  const regret = (k, x) => atLogs(laws[k], x, logND - x) - own[k].loss;
  const mean = x => laws.reduce((sum, _, k) => sum + regret(k, x), 0) / K;
  const sizes = own.map(found => found.logN), low = Math.min(...sizes), high = Math.max(...sizes);
  const least = minimise(mean, low - 1e-3, high + 1e-3, 600);
  // Every regret falls up to its own law's best size: the largest falls as long as that size lies further on.
  const worstAt = x => laws.reduce((top, _, k) => (regret(k, x) > regret(top, x) ? k : top), 0);
  const minimax = fallingRoot(x => sizes[worstAt(x)] - x, low, high);
  return {
    N_opt_per_draw_params: own.map(found => found.N),
    N_mean_regret_params: Math.exp(least.x), regret_mean_nats: least.value,
    N_minimax_params: Math.exp(minimax), regret_minimax_nats: regret(worstAt(minimax), minimax),
    regret_2x_too_big_nats: mean(least.x + Math.LN2), regret_2x_too_small_nats: mean(least.x - Math.LN2),
  };
}

function flopsParams(q) {
  const L = q.layers, d = q.width, V = q.vocab_size, h = q.heads;
  const esm2 = q.family === "esm2";
  if (!esm2 && q.family !== "progen2") throw new Error("no family is called " + q.family);
  const blocks = esm2 ? L * (12 * d * d + 13 * d) : L * (12 * d * d + 7 * d);
  const total = esm2
    ? blocks + V * d + 2 * d + (d * d + 3 * d + V) + (L * h + 1)
    : blocks + 2 * V * d + V + 2 * d;
  const head = esm2 ? 2 * d * d + 2 * d * V : 2 * d * V;
  const linear = 24 * L * d * d, attention = 4 * q.attended_tokens_per_query * d * L;
  const train = 3 * (linear + attention + head);
  return {
    params_total: total, params_nonemb: blocks, fwd_linear_flops_per_token: linear,
    fwd_attention_flops_per_token: attention, fwd_head_flops_per_token: head, train_flops_per_token: train,
    ratio_to_6N_nonemb: train / (6 * blocks), attention_share_fraction: attention / (linear + attention + head),
  };
}

function costTimeCarbon(q) {
  const hours = q.train_flops / (q.gpu_peak_flops_per_s * q.mfu_fraction * 3600), wall = hours / q.gpus;
  const kwh = hours * q.gpu_watts / 1000 * q.load_fraction * q.pue;
  return {
    gpu_hours: hours, wall_hours: wall,
    slurm_segments: Math.ceil(wall / (q.job_limit_hours * (1 - q.segment_overhead_fraction))),
    cost_usd: hours * q.usd_per_gpu_hour, energy_kwh: kwh, co2_kg: kwh * q.kg_co2_per_kwh,
  };
}

function lrBatch(q) {
  const N = q.N_params, D = q.D_tokens, C = 6 * N * D;
  return {
    step_law_lr: 1.79 * Math.pow(N, -0.713) * Math.pow(D, 0.307), step_law_batch_tokens: 0.58 * Math.pow(D, 0.571),
    deepseek_lr: 0.3118 * Math.pow(C, -0.125), deepseek_batch_tokens: 0.2920 * Math.pow(C, 0.3271),
  };
}

function memoryFit(q) {
  const { layers: L, width: d, heads: h, batch_sequences: b, seq_len_tokens: s } = q;
  if (!["none", "full"].includes(q.checkpointing)) throw new Error("checkpointing is none or full");
  if (!["standard", "flash"].includes(q.attention_kernel)) throw new Error("attention_kernel is standard or flash");
  const P = 12 * L * d * d + 13 * L * d;
  const layer = q.attention_kernel === "flash" ? 34 * s * b * d : s * b * d * (34 + 5 * h * s / d);
  const activations = q.checkpointing === "full" ? 2 * s * b * d * L + layer : L * layer;
  const state = 16 * P / q.shards;
  return { state_GB: state / 1e9, activations_GB: activations / 1e9, total_GB: (state + activations) / 1e9 };
}

function distill(q) {
  const law = parse(Object.assign({ form: "gamma" }, q.supervised_law)), c = q.distillation_law;
  const NS = q.student_params, DS = q.student_tokens, NT = q.teacher_params, DT = q.teacher_tokens;
  const at = (N, D) => atLogs(law, Math.log(N), Math.log(D));
  const LT = at(NT, DT), LS = at(NS, DS), flops = DS * (6 * NS + 2 * NT);
  const capacity = -c.c1 * c.f1 * Math.log1p(Math.pow(LT / (LS * c.d1), 1 / c.f1));
  const sum = logAdd(logGiven(c, "A") - c.alpha * Math.log(NS), logGiven(c, "B") - c.beta * Math.log(DS));
  return {
    teacher_loss_nats: LT, supervised_loss_same_tokens_nats: LS,
    distilled_loss_nats: LT + Math.exp(-c.c0 * Math.log(LT) + capacity + given(c, "gamma") * sum),
    distill_flops: flops, supervised_tokens_same_flops: flops / (6 * NS),
    supervised_loss_same_flops_nats: at(NS, flops / (6 * NS)),
  };
}

function powerFrontier(q) {
  const C = q.C_flops, at = law => law.coef * Math.pow(C, law.exponent), N = at(q.N_law), D = at(q.D_law);
  const found = { N_params: N, D_tokens: D, tokens_per_param: D / N, six_ND_over_C: 6 * N * D / C };
  if (q.loss_law) found.loss_nats = at(q.loss_law);
  return found;
}

function penalised(q, law, logN, logD) {
  const logU = Math.log(q.unique_tokens), base = atLogs(law, logN, logD), R = Math.expm1(logD - logU);
  if (!(R > 0)) return base;
  return base + q.penalty_P_nats * Math.exp(q.penalty_delta * Math.log(R) + q.penalty_kappa * (logN - logU));
}

function overfitBestEpochs(q) {
  const law = parse(q.law), logN = Math.log(q.N_params), logU = Math.log(q.unique_tokens);
  const found = minimise(e => penalised(q, law, logN, logU + Math.log(e)), 1, 60, 6000);
  const D = found.x * q.unique_tokens;
  return {
    epochs: found.x, D_tokens: D, loss_nats: found.value, loss_if_unique_nats: atLogs(law, logN, Math.log(D)),
    loss_at_compare_nats: penalised(q, law, logN, Math.log(q.compare_D_tokens)),
  };
}

function overfitBudget(q) {
  const law = parse(q.law), C = q.C_flops, logND = Math.log(C) - LOG6, free = optimum(law, C);
  const pen = x => penalised(q, law, x, logND - x);
  const found = minimise(pen, Math.log(1e7), Math.log(1e11), 4000), N = Math.exp(found.x), D = C / (6 * N);
  return {
    N_params: N, D_tokens: D, epochs: D / q.unique_tokens, loss_nats: found.value, unlimited_N_params: free.N,
    unlimited_loss_nats: free.loss, loss_if_unlimited_N_kept_nats: pen(free.logN),
  };
}

// d(Df + Dt)/df over D, for f above 0.
function moreTokens(q, D, f) {
  const most = q.transfer_k_tokens * Math.exp(q.transfer_a * Math.log((1 - f) * D) + q.transfer_b * Math.log(q.N_params));
  const limit = q.rho * f * D, moved = 1 / (1 / most + 1 / limit);
  return moved * moved * (1 / (limit * f) - q.transfer_a / ((1 - f) * most)) / D - 1;
}

function clmMlmSplit(q) {
  const law = parse(q.law), N = q.N_params, D = q.C_flops / (6 * N), logN = Math.log(N);
  const moved = f => {
    const Dc = f * D, Df = (1 - f) * D;
    if (!(Dc > 0)) return 0;
    const most = q.transfer_k_tokens * Math.exp(q.transfer_a * Math.log(Df) + q.transfer_b * logN);
    const value = 1 / (1 / most + 1 / (q.rho * Dc));
    return value > 0 ? value : 0;
  };
  const loss = f => atLogs(law, logN, Math.log((1 - f) * D + moved(f)));
  // The loss falls with the tokens alone, and tokens tell shares apart where losses round off.
  const tokens = f => -((1 - f) + moved(f) / D);
  const even = minimise(tokens, 0, 0.98, 4000), small = minimise(v => tokens(Math.exp(v)), -25, Math.log(0.98), 1000);
  let f = small.value < even.value ? Math.exp(small.x) : even.x;
  if (tokens(0) <= tokens(f) + 1e-15) f = 0;
  else f = fallingRoot(v => moreTokens(q, D, v), f * 0.999, Math.min(0.98, f * 1.001));
  return {
    clm_fraction: f, D_clm_tokens: f * D, D_mlm_tokens: (1 - f) * D, D_transferred_tokens: moved(f), loss_nats: loss(f),
    loss_no_transfer_nats: atLogs(law, logN, Math.log(D)),
  };
}

const KINDS = {
  optimum_6nd: optimum6nd, optimum_exact_flops: optimumExactFlops, loss_repeated_data: lossRepeatedData,
  optimum_data_constrained: optimumDataConstrained, repeat_value: repeatValue, repeat_horizon: repeatHorizon,
  inference_adjusted: inferenceAdjusted, data_price: dataPrice, collect_or_grow: collectOrGrow,
  decision_regret: decisionRegret, flops_params: flopsParams, cost_time_carbon: costTimeCarbon, lr_batch: lrBatch,
  memory_fit: memoryFit, distill, power_frontier: powerFrontier, overfit_best_epochs: overfitBestEpochs,
  overfit_budget: overfitBudget, clm_mlm_split: clmMlmSplit,
};

// ---- holding answers against a file -------------------------------------------------------------------------------

function casesOf(example) {
  const { cases, ...common } = example.input;
  return (cases || [{}]).map(one => Object.assign({}, common, one));
}

function wantedOf(example) {
  return example.expected.cases || [example.expected];
}

function passes(name, got, want, tolerance) {
  const difference = Math.abs(got - want);
  if (difference <= tolerance * Math.abs(want)) return true;
  return (name.startsWith("regret_") || name.endsWith("_fraction")) && difference <= 1e-6;
}

// Every number of every case of one example: {case, key, got, want, passes}; a kind that cannot answer says why.
function checkExample(example) {
  const answer = KINDS[example.kind], rows = [], error = what => [{ case: 0, key: "", passes: false, error: what }];
  if (!answer) return error("no kind is called " + example.kind);
  const cases = casesOf(example), wanted = wantedOf(example);
  if (cases.length !== wanted.length) return error(cases.length + " cases and " + wanted.length + " answers");
  cases.forEach((inputs, i) => {
    let found;
    try { found = answer(inputs); } catch (fault) { rows.push({ case: i, key: "", passes: false, error: fault.message }); return; }
    for (const [key, want] of Object.entries(wanted[i])) {
      const wants = Array.isArray(want) ? want : [want], gots = Array.isArray(want) ? found[key] || [] : [found[key]];
      wants.forEach((one, j) => {
        const name = Array.isArray(want) ? key + "[" + j + "]" : key, got = gots[j];
        const fits = typeof got === "number" && gots.length === wants.length && passes(key, got, one, example.rel_tol);
        rows.push({ case: i, key: name, got: got === undefined ? null : got, want: one, passes: fits });
      });
    }
  });
  return rows;
}

function checkExamples(file) {
  return file.examples.map(example => ({
    id: example.id, kind: example.kind, rel_tol: example.rel_tol, rows: checkExample(example),
  }));
}

root.sizingKinds = { KINDS, answer: (kind, inputs) => KINDS[kind](inputs), checkExamples, checkExample };
})(globalThis);

// The answer to one question: from a budget, data and a machine to a size with its bill and its doubts. Pure functions.
//
// A question is {objective, budget, unit, unique_tokens, data_usd_per_token, gpu, gpus, usd_per_gpu_hour, mfu,
// serve_tokens, repeats, force}; `page` is what the page holds: ensembles, hardware, limits. A purse is a function from
// ln N to ln D, the tokens that the budget pays for at that size.
(function (root) {
"use strict";

const M = root.sizingMath;
const { LOG6 } = M;
const VALLEY = 0.01;   // nats: sizes that are as good as the best for all purposes
const LEVEL = 0.8;     // of the interval of the loss

// ---- the machine --------------------------------------------------------------------------------------------------

// Block parameters to width, and width per layer, in published proportions.
function typicalWidth(N) {
  return Math.cbrt(N * widthPerLayer(N) / 12);
}

function widthPerLayer(N) {
  return 4.443 * Math.pow(N, 0.1341);
}

// Exact training FLOPs over 6 N D. Hoffmann et al. 2022, appendix F, attention restricted to documents.
function exactOver6nd(N, hardware) {
  const d = typicalWidth(N), layers = d / widthPerLayer(N);
  const forward = 24 * layers * d * d + 4 * hardware.attended_tokens * layers * d + 2 * d * hardware.vocab_size;
  return 3 * forward / (6 * N);
}

function mfuAt(N, gpu, hardware) {
  const { widths, share } = gpu.mfu_by_width || hardware.mfu_by_width, d = typicalWidth(N), last = widths.length - 1;
  if (d >= widths[last]) return gpu.mfu * share[last];
  let right = 1;
  while (d >= widths[right]) right++;
  const slope = Math.log(share[right] / share[right - 1]) / Math.log(widths[right] / widths[right - 1]);
  return gpu.mfu * share[right] * Math.pow(d / widths[right], slope);
}

// The nearest model that can be built: whole layers, one narrow head or whole ones of 64; closeness in ln N, then
// published proportions.
const WIDTHS = [16, 24, 32, 48];
for (let d = 64; d <= 32768; d += d < 1024 ? 64 : d < 2048 ? 128 : 256) WIDTHS.push(d);

function nearestShape(N) {
  const target = widthPerLayer(N);
  let best = null;
  for (const width of WIDTHS) {
    const whole = N / (12 * width * width + 2 * width);
    for (const layers of [Math.max(1, Math.floor(whole)), Math.max(1, Math.ceil(whole))]) {
      const built = layers * (12 * width * width + 2 * width), skew = Math.log2(width / layers / target);
      const score = Math.abs(Math.log(built / N)) + 0.05 * skew * skew;
      if (best === null || score < best.score || (score === best.score && layers < best.layers)) {
        best = { score, layers, width, heads: Math.max(1, width / 64), N: built };
      }
    }
  }
  const { score, ...shape } = best;
  return shape;
}

// 6 N D FLOPs done per second by one accelerator.
function speedOf(N, question, hardware) {
  const gpu = hardware.gpus[question.gpu], size = Math.max(N, hardware.smallest_N);
  const mfu = question.mfu || mfuAt(size, gpu, hardware);
  return gpu.peak_tflops * 1e12 * mfu / exactOver6nd(size, hardware);
}

function priceOf(question, hardware) {
  return question.usd_per_gpu_hour || hardware.gpus[question.gpu].usd_per_hour.mid;
}

// Accelerator hours of a budget in hours or dollars; null for FLOPs, whose hours depend on the size.
function hoursOf(question, hardware) {
  if (question.unit === "flops") return null;
  return question.unit === "usd" ? question.budget / priceOf(question, hardware) : question.budget;
}

// The purse of a budget; small models run slower, so that hours pay for fewer FLOPs there.
function purseOf(question, hardware) {
  const hours = hoursOf(question, hardware);
  if (hours === null) {
    const logND = Math.log(question.budget) - LOG6;
    return x => logND - x;
  }
  const logSeconds = Math.log(3600 * hours) - LOG6;
  return x => logSeconds + Math.log(speedOf(Math.exp(x), question, hardware)) - x;
}

const lessened = (purse, share) => { const log = Math.log(share); return x => purse(x) + log; };

// ---- what to spend on -----------------------------------------------------------------------------------------------

function frontierSize(frontier, C) {
  return Math.exp(Math.log(frontier.k_N) + frontier.a_N * Math.log(C));
}

function estimateAt(ensemble, full, logU) {
  const claim = M.claimed(ensemble, full, logU, true), purse = claim.purse;
  const x = M.ensembleOptimum(ensemble, purse, claim.logU, claim.cap, true);
  return { x, value: Math.exp(M.ensembleLogLoss(ensemble, x, purse(x), logU)) };
}

// Unique tokens to buy, and the share of the budget that is left for compute.
function purchase(question, ensemble, purse, hardware) {
  const U0 = question.unique_tokens, price = question.data_usd_per_token, none = { bought: 0, usd: 0, share: 1 };
  if (!(price > 0) || !U0 || !ensemble.estimates.length) return none;
  const before = estimateAt(ensemble, purse, Math.log(U0)), D = Math.exp(purse(before.x));
  if (D <= U0) return none;
  const usd = budgetUsd(question, before.x, purse, hardware), most = Math.min(0.98 * usd / price, 4 * D);
  const at = v => estimateAt(ensemble, lessened(purse, 1 - price * Math.exp(v) / usd), Math.log(U0 + Math.exp(v))).value;
  const steps = ensemble.data.repeats && ensemble.data.repeats.kind === "penalty" ? 9 : 24;
  const found = M.minimise(at, Math.log(most) - 9, Math.log(most), steps, true);
  if (!(found.value < before.value - 1e-9)) return none;
  const bought = Math.exp(found.x);
  return { bought, usd: price * bought, share: 1 - price * bought / usd };
}

function hoursAt(question, x, purse, hardware) {
  return 6 * Math.exp(x + purse(x)) / speedOf(Math.exp(x), question, hardware) / 3600;
}

function budgetUsd(question, x, purse, hardware) {
  return hoursAt(question, x, purse, hardware) * priceOf(question, hardware);
}

// The size that serves T tokens for least, at the loss of (N, D): 6 N D + 2 N T at equal loss. Sardana et al. 2023.
// A size that is held is not exceeded.
function leastLifetime(ensemble, logN0, logD0, logU, T, held) {
  if (!(T > 0) || !ensemble.estimates.length) return null;
  const target = M.ensembleLogLoss(ensemble, logN0, logD0, logU);
  const tokens = x => {  // ln D at which a model of ln N = x has the loss, Infinity where it never has
    const over = d => M.ensembleLogLoss(ensemble, x, d, logU) - target;
    const low = logD0 - 3, high = logD0 + 12;
    if (over(high) > 0) return Infinity;
    return over(low) <= 0 ? low : M.signRoot(over, low, high, 1e-12);
  };
  const total = x => {
    const d = tokens(x);
    return d === Infinity ? 1e3 : Math.log(6 * Math.exp(x + d) + 2 * Math.exp(x) * T);
  };
  const x = M.minimise(total, logN0 - 4, held ? logN0 : logN0 + 0.5, 18).x, N = Math.exp(x), D = Math.exp(tokens(x));
  const plain = 6 * Math.exp(logN0 + logD0) + 2 * Math.exp(logN0) * T;
  return { N, D, train_flops: 6 * N * D, serve_flops: 2 * N * T, saving: 1 - (6 * N * D + 2 * N * T) / plain };
}

// ---- doubts ---------------------------------------------------------------------------------------------------------

function decadesOutside(C, range) {
  return range ? Math.max(0, Math.log10(C / range[1]), Math.log10(range[0] / C)) : 0;
}

function flagsOf(page, data, found) {
  const flags = [];
  if (!data.range_C) flags.push("RANGE_UNKNOWN");
  else if (found.decades > page.limits.flag_decades) flags.push("FAR_OUTSIDE_RANGE");
  else if (found.C > data.range_C[1]) flags.push("ABOVE_RANGE");
  else if (found.C < data.range_C[0]) flags.push("BELOW_RANGE");
  for (const flag of data.flags) if (flag !== "TEXT_REPEATS" || found.epochs > 1.1) flags.push(flag);
  if (found.form_factor > 2) flags.push("FORMS_DISAGREE");
  if (found.epochs > 1.1) flags.push("DATA_REPEATED");
  if (found.epochs > page.limits.max_epochs) flags.push("DATA_EXHAUSTED");
  if (found.useful_share < 0.995) flags.push("BUDGET_NOT_ALL_USEFUL");
  if (found.size_capped) flags.push("SIZE_CAPPED");
  if (found.size_held) flags.push("SIZE_HELD");
  return flags;
}

// ---- the answer -----------------------------------------------------------------------------------------------------

function ensembleFor(page, question) {
  const data = page.ensembles.find(one => one.objective === question.objective);
  if (!data) throw new Error("the page holds no law for " + question.objective);
  const fresh = question.repeats === "new", key = data.objective + (fresh ? " new" : "");
  page.made = page.made || new Map();
  if (!page.made.has(key)) page.made.set(key, M.makeEnsemble(fresh ? Object.assign({}, data, { repeats: null }) : data));
  return page.made.get(key);
}

function answer(page, question) {
  const ensemble = ensembleFor(page, question), data = ensemble.data, hardware = page.hardware;
  if (!ensemble.estimates.length) return frontierAnswer(page, question, data);
  const full = purseOf(question, hardware), bought = purchase(question, ensemble, full, hardware);
  const unique = question.unique_tokens ? question.unique_tokens + bought.bought : null;
  const logU = unique && question.repeats !== "new" ? Math.log(unique) : Infinity;
  const paid = lessened(full, bought.share), claim = M.claimed(ensemble, paid, logU), { purse, cap, settle } = claim;
  const range = M.searchRange(ensemble, paid, cap);
  const d = M.decide(ensemble.draws, ensemble.weights, purse, claim.logU, range, claim.each), x = d.logN;
  if (settle) { settle(x); d.regret = d.meanAt(x); }
  const found = spent(page, question, data, x, full, purse, bought, unique);
  found.useful_share = Math.exp(purse(x) - paid(x));
  found.size_capped = x > cap - 0.01;
  found.size_held = claim.logU !== logU;
  if (found.refused) return found;
  Object.assign(found, fromDraws(ensemble, d, purse, logU, claim.logU, found.decades));
  found.lifetime = leastLifetime(ensemble, x, purse(x), logU, question.serve_tokens, found.size_held);
  found.flags = flagsOf(page, data, found);
  return Object.assign(found, { decision: d, purse, logU });
}

// Size, tokens and the bill.
function spent(page, question, data, x, full, purse, bought, unique) {
  const hardware = page.hardware, gpu = hardware.gpus[question.gpu], N = Math.exp(x), D = Math.exp(purse(x)), C = 6 * N * D;
  const decades = decadesOutside(C, data.range_C), hours = hoursAt(question, x, purse, hardware);
  const price = priceOf(question, hardware), kwh = hours * gpu.watts / 1000 * hardware.watt_load * hardware.pue;
  const found = {
    C, C_budget: 6 * Math.exp(x + full(x)), decades, gpu_hours: hours, wall_hours: hours / question.gpus,
    usd: hours * price + bought.usd, compute_usd: hours * price, data_usd: bought.usd, energy_kwh: kwh,
    co2_kg: kwh * hardware.kg_co2_per_kwh, refused: decades > page.limits.refuse_decades && !question.force,
  };
  if (found.refused) return Object.assign(found, { flags: ["REFUSED"] });
  return Object.assign(found, {
    N, D, shape: nearestShape(N), tokens_per_param: D / N, unique_tokens: unique, new_tokens: bought.bought, epochs: unique ? D / unique : null,
    frontiers: data.frontiers.map(one => ({ name: one.name, N: frontierSize(one, C) })),
  });
}

// `decidesU`: ln of the unique tokens by which the size was decided.
function fromDraws(ensemble, d, purse, logU, decidesU, decades) {
  const { draws, weights, data } = ensemble, x = d.logN, edges = M.band(d, VALLEY), own = d.best.map(one => one.logN);
  const losses = draws.map(row => row.loss(x, purse(x), logU));
  const [low, middle, high] = M.weightedQuantiles(own, weights, [0.1, 0.5, 0.9]).map(Math.exp);
  const sd = Math.sqrt(data.noise_sd ** 2 + data.drift_sd ** 2 * decades);
  const interval = M.blurredInterval(losses.map(Math.log), weights, sd, LEVEL);
  const loss = losses.reduce((sum, one, k) => sum + weights[k] * one, 0);
  const decided = decidesU === logU ? losses : draws.map(row => row.loss(x, purse(x), decidesU));
  const members = data.members.map((member, m) => {
    const mine = Float64Array.from(own.filter((_, k) => ensemble.forms[k] === m)).sort();
    const [N_low, N_median, N_high] = [0.1, 0.5, 0.9].map(level => Math.exp(M.sortedQuantile(mine, level)));
    return { name: member.name, weight: member.weight, N_low, N_median, N_high };
  });
  const counted = members.filter(one => one.weight >= 0.05).map(one => one.N_median);
  return {
    regret: d.regret, N_minimax: Math.exp(d.logMinimax), regret_minimax: d.regretMinimax,
    N_low: low, N_median: middle, N_high: high, band_low: Math.exp(edges[0]), band_high: Math.exp(edges[1]),
    band_open: [edges[0] === d.range[0], edges[1] === d.range[1]],
    probability: decided.reduce((sum, one, k) => sum + (one - d.best[k].loss <= VALLEY ? weights[k] : 0), 0),
    loss, loss_low: Math.min(interval[0], loss), loss_high: Math.max(interval[1], loss), perplexity: Math.exp(loss), members,
    form_factor: counted.length ? Math.max(...counted) / Math.min(...counted) : 1,
  };
}

// A law that states sizes alone: the N at which the frontier's budget is what the purse pays for.
function frontierAnswer(page, question, data) {
  const full = purseOf(question, page.hardware), first = data.frontiers[0];
  const excess = x => Math.log(frontierSize(first, 6 * Math.exp(x + full(x)))) - x;
  const x = M.fallingRoot(excess, Math.log(1e3), Math.log(1e15));
  const none = { bought: 0, usd: 0, share: 1 };
  const found = spent(page, question, data, x, full, full, none, question.unique_tokens);
  if (found.refused) return found;
  Object.assign(found, { loss: null, lifetime: null, decision: null });
  found.flags = flagsOf(page, data, found);
  return found;
}

// What another size would give on the same budget: [{factor, N, D, epochs, loss, mean regret, largest regret}].
function neighbours(page, question, found, factors) {
  if (!found.decision) return [];
  const ensemble = ensembleFor(page, question), d = found.decision;
  return factors.map(factor => {
    const x = Math.log(found.N * factor), logD = found.purse(x), D = Math.exp(logD);
    return {
      factor, N: Math.exp(x), D, epochs: found.unique_tokens ? D / found.unique_tokens : null,
      loss: M.meanLoss(ensemble, x, logD, found.logU), regret: d.meanAt(x), regret_worst: d.worstAt(x),
    };
  });
}

// The numbers of an answer, without the curves: what the page prints, copies and is checked by; `own_N` is the best
// size of every draw.
function plain(found) {
  const { decision, purse, logU, band_open, ...numbers } = found;
  return decision ? Object.assign(numbers, { own_N: decision.best.map(one => Math.exp(one.logN)) }) : numbers;
}

root.sizingAnswer = { answer, plain, neighbours, ensembleFor, speedOf, exactOver6nd, mfuAt, decadesOutside };
})(globalThis);

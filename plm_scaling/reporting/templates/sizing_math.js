// Laws as functions of ln N and ln D, and what decisions need of them. Pure functions: no page, no clock, no chance.
//
// N parameters, D training tokens, U unique tokens, C = 6 N D training FLOPs, losses in nats per token. A law's
// coefficients are centred, A0 = A N0^-alpha and B0 = B D0^-beta; positive ones are kept as logarithms.
(function (root) {
"use strict";

const LOG6 = Math.log(6);
const GOLDEN = (Math.sqrt(5) - 1) / 2;

function logAdd(a, b) {
  return a > b ? a + Math.log1p(Math.exp(b - a)) : b === -Infinity ? b : b + Math.log1p(Math.exp(a - b));
}

function softplus(v) {
  return Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
}

// ---- one-dimensional search ---------------------------------------------------------------------------------------

// The minimum of f between low and high, which has one there: parabolas where they help, else golden sections.
// Brent 1973, chapter 5.
function brent(f, low, high, start, precision) {
  let x = start === undefined ? low + (1 - GOLDEN) * (high - low) : start, w = x, v = x, fx = f(x), fw = fx, fv = fx;
  let step = 0, before = 0;
  for (let i = 0; i < 90; i++) {
    const middle = 0.5 * (low + high), tolerance = (precision || 1e-9) * (1 + Math.abs(x));
    if (Math.abs(x - middle) <= 2 * tolerance - 0.5 * (high - low)) break;
    let parabola = false;
    if (Math.abs(before) > tolerance) {
      const r = (x - w) * (fx - fv);
      let q = (x - v) * (fx - fw), p = (x - v) * q - (x - w) * r;
      q = 2 * (q - r);
      if (q > 0) p = -p; else q = -q;
      if (Math.abs(p) < Math.abs(0.5 * q * before) && p > q * (low - x) && p < q * (high - x)) {
        before = step; step = p / q; parabola = true;
        if (x + step - low < 2 * tolerance || high - x - step < 2 * tolerance) step = x < middle ? tolerance : -tolerance;
      }
    }
    if (!parabola) { before = x < middle ? high - x : low - x; step = (1 - GOLDEN) * before; }
    const u = x + (Math.abs(step) >= tolerance ? step : step > 0 ? tolerance : -tolerance), fu = f(u);
    if (fu <= fx) {
      if (u < x) high = x; else low = x;
      v = w; fv = fw; w = x; fw = fx; x = u; fx = fu;
    } else {
      if (u < x) low = u; else high = u;
      if (fu <= fw || w === x) { v = w; fv = fw; w = u; fw = fu; } else if (fu <= fv || v === x || v === w) { v = u; fv = fu; }
    }
  }
  return x;
}

// A root of f between low and high, where it changes sign: false position, halving an end that stands still.
function signRoot(f, low, high, tolerance) {
  let fLow = f(low), fHigh = f(high), side = 0;
  if (fLow === 0) return low;
  for (let i = 0; i < 100; i++) {
    const x = (low * fHigh - high * fLow) / (fHigh - fLow), fx = f(x);
    if (fx === 0 || high - low < tolerance) return x;
    if ((fx > 0) === (fHigh > 0)) {
      if (Math.abs(high - x) < tolerance && i > 2) return x;
      high = x; fHigh = fx;
      if (side === -1) fLow /= 2;
      side = -1;
    } else {
      if (Math.abs(x - low) < tolerance && i > 2) return x;
      low = x; fLow = fx;
      if (side === 1) fHigh /= 2;
      side = 1;
    }
  }
  return 0.5 * (low + high);
}

// A minimum found by values alone is known to the root of a number's last digit; where the curve is smooth its slope
// tells more. A kink makes the two disagree, and the values are right.
function polish(f, x, low, high) {
  const h = 1e-4;
  if (x - 4 * h < low || x + 4 * h > high) return x;
  const slope = v => f(v + h) - f(v - h), a = x - 2 * h, b = x + 2 * h;
  if (!(slope(a) < 0 && slope(b) > 0)) return x;
  const found = signRoot(slope, a, b, 1e-11);
  return Math.abs(found - x) < 1e-5 ? found : x;
}

// The lowest point of f on [low, high]: a grid, since laws of repeats have kinks, then a search in every dip that could
// be the lowest. `rough` is good to 1e-5 and follows one dip alone, for searches within searches.
function minimise(f, low, high, steps, rough) {
  const n = steps || 200, width = (high - low) / n, values = [];
  for (let i = 0; i <= n; i++) values.push(f(i === n ? high : low + width * i));
  const dips = [];
  for (let i = 0; i <= n; i++) {
    const below = i === 0 || values[i] <= values[i - 1], above = i === n || values[i] <= values[i + 1];
    if (below && above) dips.push(i);
  }
  dips.sort((i, j) => values[i] - values[j]);
  let best = null;
  for (const i of dips.slice(0, rough ? 1 : 3)) {
    const edges = [low + width * Math.max(0, i - 1), i >= n - 1 ? high : low + width * (i + 1)];
    const grid = i === n ? high : low + width * i;
    let x = brent(f, edges[0], edges[1], i === 0 || i === n ? undefined : grid, rough ? 1e-6 : 1e-9);
    if (!rough) x = polish(f, x, low, high);
    let value = f(x);
    if (values[i] <= value) { x = grid; value = values[i]; }
    if (best === null || value < best.value) best = { x, value };
  }
  return best;
}

// The root of a falling function on (low, high).
function fallingRoot(f, low, high) {
  for (let i = 0; i < 200 && high - low > 1e-14 * (1 + Math.abs(low) + Math.abs(high)); i++) {
    const middle = 0.5 * (low + high);
    if (f(middle) > 0) low = middle; else high = middle;
  }
  return 0.5 * (low + high);
}

// ---- the normal distribution --------------------------------------------------------------------------------------

// Area of the standard normal below z: a series near zero, a continued fraction in the tails.
function normalBelow(z) {
  const a = Math.abs(z);
  if (a > 38) return z > 0 ? 1 : 0;
  const density = Math.exp(-0.5 * a * a) / Math.sqrt(2 * Math.PI);
  let tail;
  if (a < 3) {
    let term = a, sum = a;
    for (let k = 1; k < 200 && term > 1e-18 * sum; k++) { term *= a * a / (2 * k + 1); sum += term; }
    tail = 0.5 - density * sum;
  } else {
    let fraction = 0;
    for (let k = 60; k >= 1; k--) fraction = k / (a + fraction);
    tail = density / (a + fraction);
  }
  return z > 0 ? 1 - tail : tail;
}

// z with the area `share` of the standard normal below it: Newton's steps from a rough start.
function normalQuantile(share) {
  let z = Math.sign(share - 0.5) * Math.sqrt(Math.max(0, -2 * Math.log(2 * Math.min(share, 1 - share)))) * 0.8;
  for (let i = 0; i < 60; i++) {
    const step = (normalBelow(z) - share) * Math.sqrt(2 * Math.PI) * Math.exp(0.5 * z * z);
    z -= Math.max(-1, Math.min(1, step));
    if (Math.abs(step) < 1e-14) break;
  }
  return z;
}

// Quantiles of weighted values: each stands in the middle of its share of the weight, straight lines between.
function weightedQuantiles(values, weights, levels) {
  const order = Array.from(values.keys()).sort((i, j) => values[i] - values[j]), at = [];
  let below = 0;
  for (const k of order) { at.push(below + 0.5 * weights[k]); below += weights[k]; }
  const last = order.length - 1;
  let i = 0;
  return levels.map(level => {
    if (i > 0 && level < at[i - 1]) i = 0;
    while (i <= last && at[i] < level) i++;
    if (i === 0) return values[order[0]];
    if (i > last) return values[order[last]];
    const t = (level - at[i - 1]) / (at[i] - at[i - 1]), low = values[order[i - 1]];
    return low + t * (values[order[i]] - low);
  });
}

// Quantile of equally weighted sorted values: position (n - 1) level, straight lines between.
function sortedQuantile(sorted, level) {
  const at = (sorted.length - 1) * level, i = Math.floor(at), next = Math.min(i + 1, sorted.length - 1);
  return sorted[i] + (at - i) * (sorted[next] - sorted[i]);
}

const BLUR = Array.from({ length: 64 }, (_, k) => normalQuantile((k + 0.5) / 64));
const BLUR_SD = Math.sqrt(BLUR.reduce((sum, z) => sum + z * z, 0) / BLUR.length);

// Central interval of what one run would show: weighted logs of losses, each blurred by a normal of one width.
function blurredInterval(logs, weights, sd, level) {
  const middles = Array.from({ length: 400 }, (_, i) => (i + 0.5) / 400), centres = weightedQuantiles(logs, weights, middles);
  const shifts = BLUR.map(z => sd * z / BLUR_SD), last = 400 * BLUR.length - 1;
  return [(1 - level) / 2, (1 + level) / 2].map(share => {
    const at = last * share, i = Math.floor(at), low = sumOfRank(centres, shifts, i);
    return Math.exp(low + (at - i) * (sumOfRank(centres, shifts, Math.min(i + 1, last)) - low));
  });
}

// The sum of that rank (from 0) among all sums of one of each of two sorted lists: halving, with a count in one sweep.
function sumOfRank(a, b, rank) {
  let low = a[0] + b[0], high = a[a.length - 1] + b[b.length - 1];
  for (let i = 0; i < 80 && high - low > 1e-15; i++) {
    const middle = 0.5 * (low + high);
    let count = 0, k = b.length;
    for (let j = 0; j < a.length; j++) {
      while (k > 0 && a[j] + b[k - 1] > middle) k--;
      count += k;
    }
    if (count > rank) high = middle; else low = middle;
  }
  return high;
}

// ---- forms: one draw of a law -------------------------------------------------------------------------------------

const LOGS = new Set(["E", "A0", "B0", "K0", "g", "a_D", "L0", "k", "B_c", "R_D", "R_N", "P0"]);

// L of the logs n of A N^-alpha and d of B D^-beta; E, L0 and the room between them in nats.
const FORMS = {
  chinchilla: (p, n, d) => p.floor + Math.exp(n) + Math.exp(d),
  no_floor: (p, n, d) => Math.exp(n) + Math.exp(d),
  tied: (p, n, d) => p.floor + Math.exp(n) + Math.exp(d),
  overtraining: (p, n, d) => p.floor + Math.exp(n) + Math.exp(d),
  gamma: (p, n, d) => p.floor + Math.exp(p.power * logAdd(n, d)),
  kaplan: (p, n, d) => Math.exp(p.power * logAdd(n, d)),
  bounded: (p, n, d) => p.floor + p.room / (1 + p.room / (Math.exp(n) + Math.exp(d))),
  saturating: (p, n, d) => p.floor + p.room * Math.exp(-Math.log1p(Math.exp(p.power * (p.logRoom - logAdd(n, d)))) / p.power),
};
const INNER = {
  chinchilla: p => [p.A0, p.B0, p.alpha, p.beta],
  no_floor: p => [p.A0, p.B0, p.alpha, p.beta],
  tied: p => [p.A0, p.B0, p.alpha, p.alpha],
  overtraining: p => [p.A0, p.B0, 2 * p.eta, 2 * p.eta],
  gamma: p => [p.A0, p.B0, p.alpha, p.beta],
  kaplan: p => [p.A0, p.B0, p.r, 1],
  bounded: p => [p.A0, p.B0, p.alpha, p.beta],
  saturating: p => [p.A0, p.B0, p.alpha, p.beta],
};

// One draw: parameters by name, in their own units, centred at ln N0 and ln D0; ln of the batch in tokens.
function makeLaw(form, names, natural, centre, logBatch, plateau) {
  const [plain, option] = form.split("+");
  const p = {};
  names.forEach((name, i) => {
    p[name] = LOGS.has(name) ? Math.log(Math.max(natural[i], 1e-300)) : natural[i];
  });
  const push = option === "batch" ? softplus((logBatch || 0) - p.B_c) : 0, [logN0, logD0] = centre;
  const law = { form: plain, p, logN0, logD0, inner: null };
  if (plain === "multiplicative") {
    const level = p.K0 + p.beta * push;
    law.loss = (logN, logD) => Math.exp(level - p.alpha * (logN - logN0) - p.beta * (logD - logD0));
    return law;
  }
  if (plain === "log_quadratic") {
    law.loss = (logN, logD) => {
      const x = logN - logN0, y = logD - logD0;
      return Math.exp(p.l0 + p.lN * x + p.lD * y + p.lNN * x * x + p.lND * x * y + p.lDD * y * y);
    };
    return law;
  }
  if (!FORMS[plain]) throw new Error("no form is called " + form);
  p.floor = p.E === undefined ? 0 : Math.exp(p.E);
  p.power = Math.exp(plain === "gamma" ? p.g : plain === "kaplan" ? p.a_D : plain === "saturating" ? p.k : 0);
  if (plain === "bounded" || plain === "saturating") {
    p.room = (plateau === null || plateau === undefined ? Math.exp(p.L0) : plateau) - p.floor;
    p.logRoom = Math.log(p.room);
  }
  const [A, B0, alpha, beta] = INNER[plain](p), B = B0 + beta * push, outer = FORMS[plain];
  law.inner = { A, B, alpha, beta };
  law.outer = (n, d) => outer(p, n, d);
  law.loss = (logN, logD) => outer(p, A - alpha * (logN - logN0), B - beta * (logD - logD0));
  return law;
}

// ln N of the lowest loss on N D = e^logND with unlimited data; NaN where the form has none.
// Hoffmann et al. 2022, eq. 4: alpha A N^-alpha = beta B D^-beta; what stands outside the sum drops out.
function logOptimum(law, logND) {
  const c = logND - law.logN0 - law.logD0;
  if (law.form === "log_quadratic") {
    const p = law.p, bend = p.lNN - p.lND + p.lDD;
    return bend > 0 ? law.logN0 - (p.lN - p.lD + (p.lND - 2 * p.lDD) * c) / (2 * bend) : NaN;
  }
  if (!law.inner) return NaN;
  const { A, B, alpha, beta } = law.inner;
  return law.logN0 + (Math.log(alpha) + A - Math.log(beta) - B + beta * c) / (alpha + beta);
}

// ---- repeated data ------------------------------------------------------------------------------------------------

// ln(1 + R* (1 - e^(-R/R*))): what 1 + R passes are worth, at most 1 + R*. Muennighoff et al. 2023, eq. 5.
function logWorth(limit, repeats) {
  return Math.log1p(-limit * Math.expm1(-repeats / limit));
}

// ln D' of D tokens over U unique ones.
function logTokensWorth(logD, logU, R_D) {
  return logD <= logU ? logD : logU + logWorth(R_D, Math.expm1(logD - logU));
}

// L of a fitted law of repeats: decays of tokens and parameters, or a penalty P R^delta (N/U)^kappa.
// Muennighoff et al. 2023, eq. 5-6; Lovelace et al. 2026. The best size for U tokens follows from the base law.
function repeatLoss(base, kind, centre, logN, logD, logUnique) {
  const { A, B, alpha, beta } = base.inner, p = base.p;
  const logU = Math.min(logUnique, logD), R = Math.expm1(logD - logU);
  let n = A - alpha * (logN - base.logN0), d = B - beta * (logD - base.logD0);
  const unique = B - beta * (logU - base.logD0);
  if (kind === "size_decay" || kind === "decay") {
    const excess = Math.max(0, unique + Math.log(beta) - Math.log(alpha) - n);
    n += excess - alpha * logWorth(Math.exp(p.R_N), Math.expm1(Math.min(excess / alpha, 40)));
  }
  if (kind === "data_decay" || kind === "decay") d = unique - beta * logWorth(Math.exp(p.R_D), R);
  const level = base.outer(n, d);
  if (kind !== "penalty" || !(R > 0)) return level;
  return level + Math.exp(p.P0 + p.delta * (Math.log(R) - centre.logR0) + p.kappa * (logN - logU - centre.logRatio0));
}

// ---- an ensemble: draws of several forms with their weights -------------------------------------------------------

// The ensemble of the page's data: for every draw L(ln N, ln D, ln U), its weight and its form; and the estimates.
function makeEnsemble(data) {
  const ensemble = { data, estimates: [], shares: [], draws: [], weights: [], forms: [] };
  const repeats = data.repeats ? makeRepeats(data.repeats) : null;
  data.members.forEach((member, index) => {
    const centre = [Math.log(member.N0), Math.log(member.D0)], logBatch = Math.log(member.batch_tokens || 1);
    const rows = member.draws.map((natural, row) => {
      const law = makeLaw(member.form, member.parameters, natural, centre, logBatch, member.plateau);
      return { law, member: index, loss: withRepeats(law, repeats, row) };
    });
    ensemble.estimates.push(rows[0]);
    ensemble.shares.push(member.weight);
    const drawn = rows.length > 1 ? rows.slice(1) : rows;
    for (const row of drawn) {
      ensemble.draws.push(row);
      ensemble.weights.push(member.weight / drawn.length);
      ensemble.forms.push(index);
    }
  });
  return ensemble;
}

function makeRepeats(data) {
  if (data.kind === "tokens") return { kind: "tokens", worths: [data.R_D, ...data.strata].map(makeWorth) };
  const centre = { logR0: Math.log(data.R0), logRatio0: Math.log(data.ratio0) };
  const at = [Math.log(data.N0), Math.log(data.D0)], logBatch = Math.log(data.batch_tokens || 1);
  const rows = data.draws.map(natural => makeLaw(data.base, data.parameters, natural, at, logBatch, data.plateau));
  return { kind: data.kind, centre, rows };
}

// ln D' for one R_D; many draws share it and are asked at the same point in turn.
function makeWorth(R_D) {
  let lastD = NaN, lastU = NaN, worth = NaN;
  return (logD, logU) => {
    if (logD !== lastD || logU !== lastU) {
      worth = logTokensWorth(logD, logU, R_D);
      lastD = logD; lastU = logU;
    }
    return worth;
  };
}

// L of row `row` of a member (0: the estimate), with what repeated tokens are worth.
function withRepeats(law, repeats, row) {
  if (!repeats || repeats.kind === "none") return law.loss;
  if (repeats.kind === "tokens") {
    const worth = repeats.worths[row === 0 ? 0 : 1 + (row - 1) % (repeats.worths.length - 1)];
    return (logN, logD, logU) => law.loss(logN, worth(logD, logU));
  }
  const last = repeats.rows.length - 1, base = repeats.rows[row === 0 || last === 0 ? 0 : 1 + (row - 1) % last];
  return (logN, logD, logU) => {
    const fresh = law.loss(logN, logD);
    if (logU >= logD) return fresh;
    return fresh * repeatLoss(base, repeats.kind, repeats.centre, logN, logD, logU)
      / repeatLoss(base, repeats.kind, repeats.centre, logN, logD, logD);
  };
}

// ln L of the ensemble at one point: the weighted mean of the estimates' ln L.
function ensembleLogLoss(ensemble, logN, logD, logU) {
  let sum = 0;
  for (let m = 0; m < ensemble.estimates.length; m++) {
    sum += ensemble.shares[m] * Math.log(ensemble.estimates[m].loss(logN, logD, logU));
  }
  return sum;
}

// The mean loss of the draws at one point.
function meanLoss(ensemble, logN, logD, logU) {
  let sum = 0;
  for (let k = 0; k < ensemble.draws.length; k++) sum += ensemble.weights[k] * ensemble.draws[k].loss(logN, logD, logU);
  return sum;
}

// Sizes the forms' estimates call best for a purse (ln N -> ln D it pays for) on unlimited data: [lowest, highest] ln N.
function ownOptima(ensemble, purse) {
  let x = Math.log(1e9), found = [x];
  for (let i = 0; i < 6; i++) {
    const logND = x + purse(x);
    found = ensemble.estimates.map(row => logOptimum(row.law, logND)).filter(Number.isFinite);
    if (!found.length) return null;
    x = found.reduce((sum, one) => sum + one, 0) / found.length;
  }
  return [Math.min(...found), Math.max(...found)];
}

const SIZES = [Math.log(1e3), Math.log(1e15)];

// Where sizes are looked for: 2.5 decades about what the forms call best, at most up to a cap.
function searchRange(ensemble, purse, cap) {
  const own = ownOptima(ensemble, purse), high = Math.min(SIZES[1], cap, own === null ? Infinity : own[1] + 6);
  return [Math.min(Math.max(SIZES[0], own === null ? 0 : own[0] - 6), high - 6), high];
}

// ln N, at most `cap`, that minimises the estimates' loss on what a purse pays for.
function ensembleOptimum(ensemble, purse, logU, cap, rough) {
  const f = x => ensembleLogLoss(ensemble, x, purse(x), logU), own = ownOptima(ensemble, purse), top = Math.min(SIZES[1], cap);
  if (own === null) return minimise(f, SIZES[0], top, 96, rough).x;
  let low = Math.min(own[0], top) - 1, high = Math.min(own[1] + 2.5, top);
  for (let i = 0; i < 8; i++) {
    const found = minimise(f, low, high, Math.ceil((high - low) / 0.35), rough).x;
    if (found > low + 0.1 && (found < high - 0.1 || high === top)) return found;
    if (found <= low + 0.1) low -= 3; else high = Math.min(high + 3, top);
    if (low < SIZES[0] - 3) break;
  }
  return minimise(f, SIZES[0], top, 96, rough).x;
}

// ---- laws whose repeats turn the loss upwards ---------------------------------------------------------------------

// What such laws claim: sizes up to ten times the largest seen, and stops between one pass over the unique tokens and
// ten times the epochs that were run. {cap: ln N, stop: (loss of ln N, ln D) -> (ln N -> ln D)}; null for other laws.
function turning(ensemble, purse, logU, rough) {
  const repeats = ensemble.data.repeats;
  if (logU === Infinity || !repeats || repeats.kind !== "penalty") return null;
  const most = logU + Math.log(10 * Math.max(repeats.range_epochs[1], 1));
  const stop = loss => x => {
    const full = purse(x), low = Math.min(full, logU), high = Math.min(full, most);
    if (high - low < 1e-9) return high;
    const at = t => loss(x, low + t * (high - low)), best = minimise(at, 0, 1, 5, rough);
    return low + best.x * (high - low);
  };
  return { cap: Math.log(repeats.largest_N), stop };
}

// Whether a purse is held to the size of unlimited data: it would repeat tokens, and only their worth is known to
// decay, so that the law would send the rest of the budget into parameters without end. Muennighoff et al. 2023.
function isHeld(ensemble, purse, logU) {
  const repeats = ensemble.data.repeats;
  if (logU === Infinity || !repeats || repeats.kind !== "tokens") return false;
  return purse(ensembleOptimum(ensemble, purse, Infinity, Infinity, true)) > logU;
}

// The purse with the stop that is best by the estimates at every size, and the cap on sizes; `logU` is what decides
// the size: Infinity where it is held to unlimited data.
function claimed(ensemble, purse, logU, rough) {
  const turns = turning(ensemble, purse, logU, rough);
  if (turns === null) return { purse, cap: Infinity, each: null, logU: isHeld(ensemble, purse, logU) ? Infinity : logU };
  const stopped = turns.stop((x, d) => ensembleLogLoss(ensemble, x, d, logU)), known = new Map();
  const remembered = x => { if (!known.has(x)) known.set(x, stopped(x)); return known.get(x); };
  const settle = x => { known.set(x, turns.stop((at, d) => meanLoss(ensemble, at, d, logU))(x)); };  // where it matters: by all draws
  return { purse: remembered, cap: turns.cap, each: row => turns.stop((x, d) => row.loss(x, d, logU)), settle, logU };
}

// ---- the decision over draws --------------------------------------------------------------------------------------

// What draws say about the size on what a purse pays for and e^logU unique tokens (logU Infinity: unlimited).
// Least mean regret has the same N as least mean loss; minimax regret needs every draw's own lowest loss. `each` gives
// a draw a purse of its own, where stopping early is a choice.
function decide(rows, weights, purse, logU, range, each) {
  const steps = 104, width = (range[1] - range[0]) / steps, K = rows.length;
  const grid = Array.from({ length: steps + 1 }, (_, i) => range[0] + width * i), tokens = grid.map(purse);
  const losses = rows.map(() => new Float64Array(steps + 1));
  for (let i = 0; i <= steps; i++) for (let k = 0; k < K; k++) losses[k][i] = rows[k].loss(grid[i], tokens[i], logU);
  const best = rows.map((row, k) => {
    const own = each ? each(row) : purse;
    return ownBest(x => row.loss(x, own(x), logU), losses[k], grid);
  });
  const mean = new Float64Array(steps + 1), worst = new Float64Array(steps + 1).fill(-Infinity);
  for (let k = 0; k < K; k++) {
    for (let i = 0; i <= steps; i++) {
      const regret = losses[k][i] - best[k].loss;
      mean[i] += weights[k] * regret;
      if (regret > worst[i]) worst[i] = regret;
    }
  }
  const meanAt = x => {
    const d = purse(x);
    let sum = 0;
    for (let k = 0; k < K; k++) sum += weights[k] * (rows[k].loss(x, d, logU) - best[k].loss);
    return sum;
  };
  const every = Array.from(rows.keys());
  const worstOf = (which, x) => {
    const d = purse(x);
    let top = -Infinity;
    for (const k of which) top = Math.max(top, rows[k].loss(x, d, logU) - best[k].loss);
    return top;
  };
  const worstAt = x => worstOf(every, x);
  const i = lowest(mean), j = lowest(worst);
  const around = index => [grid[Math.max(0, index - 1)], grid[Math.min(steps, index + 1)]];
  const [low, high] = around(i), inside = i > 0 && i < steps;
  const chosen = polish(meanAt, brent(meanAt, low, high, inside ? grid[i] : undefined), range[0], range[1]);
  // Draws far below the worst at both ends of a step are not the worst between them.
  const ends = [Math.max(0, j - 1), Math.min(steps, j + 1)];
  const near = every.filter(k => Math.max(...ends.map(e => losses[k][e] - best[k].loss)) > 0.5 * worst[j]);
  // A regret falls up to its own draw's best size: the largest falls as long as that size lies further on.
  const worstDraw = (which, x) => {
    const d = purse(x), regrets = which.map(k => rows[k].loss(x, d, logU) - best[k].loss);
    return which[regrets.indexOf(Math.max(...regrets))];
  };
  const minimaxOf = which => fallingRoot(x => best[worstDraw(which, x)].logN - x, ...around(j));
  let minimax = minimaxOf(near);
  if (worstAt(minimax) > worstOf(near, minimax)) minimax = minimaxOf(every);
  return {
    grid, losses, mean, worst, best, meanAt, worstAt, range,
    logN: chosen, regret: meanAt(chosen), logMinimax: minimax, regretMinimax: worstAt(minimax),
  };
}

// The lowest point of one draw, from its losses on the grid.
function ownBest(f, losses, grid) {
  const i = lowest(losses), last = grid.length - 1;
  if (i === 0 || i === last) return { logN: grid[i], loss: Math.min(losses[i], f(grid[i])) };
  const x = polish(f, brent(f, grid[i - 1], grid[i + 1], grid[i]), grid[0], grid[last]);
  return { logN: x, loss: Math.min(f(x), losses[i]) };
}

function lowest(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] < values[best]) best = i;
  return best;
}

// Sizes around ln N whose mean regret is at most `width` above the lowest, out to the ends of the range.
function band(decision, width) {
  const { grid, mean, logN } = decision, top = decision.regret + width, last = grid.length - 1;
  const edge = (start, sign) => {
    let inside = logN;
    for (let i = start; i >= 0 && i <= last; i += sign) {
      if (mean[i] > top) {
        const ends = sign > 0 ? [inside, grid[i]] : [grid[i], inside];
        return signRoot(x => decision.meanAt(x) - top, ends[0], ends[1], 1e-12);
      }
      inside = grid[i];
    }
    return inside;
  };
  const right = grid.findIndex(x => x > logN);
  return [edge(right < 0 ? last : right - 1, -1), edge(right < 0 ? last : right, 1)];
}

root.sizingMath = {
  LOG6, logAdd, softplus, brent, signRoot, polish, minimise, fallingRoot, normalBelow, normalQuantile,
  weightedQuantiles, sortedQuantile, blurredInterval, makeLaw, logOptimum, logWorth, logTokensWorth,
  repeatLoss, makeEnsemble, ensembleLogLoss, meanLoss, ensembleOptimum, claimed, searchRange, decide, band,
};
})(globalThis);

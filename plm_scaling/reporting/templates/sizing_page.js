// The page: controls to a question, the question to an answer, the answer to words, numbers and drawings.
(function (root) {
"use strict";
if (typeof document === "undefined") return;  // under node only the answers are wanted

const { answer, plain, neighbours, ensembleFor } = root.sizingAnswer, { meanLoss } = root.sizingMath;
const { chanceClause, chanceDoubts, formName } = root.sizingWords;
const page = JSON.parse(document.getElementById("page-data").textContent);
const $ = id => document.getElementById(id);
const first = page.question;

// ---- numbers in words ---------------------------------------------------------------------------------------------

function significant(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

function count(value, digits) {
  const few = digits || 2;
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  if (value >= 1e15) return power(value);
  for (const [letter, scale] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (value >= scale * (1 - 0.5 * Math.pow(10, -few))) return significant(value / scale, few) + letter;
  }
  return significant(value, few);
}

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
function power(value, digits) {
  const [mantissa, exponent] = value.toExponential((digits || 3) - 1).split("e"), short = String(Number(mantissa));
  const ten = "10" + String(Number(exponent)).split("").map(c => RAISED[c]).join("");
  return short === "1" ? ten : short + "×" + ten;
}

function grouped(value, digits) {
  const few = digits || 3;
  if (value === 0) return "0";
  if (value < 10) return significant(value, few === 3 ? 2 : few);
  return Math.round(Number(value.toPrecision(few))).toLocaleString("en-US");
}

function duration(hours) {
  if (hours < 1) return significant(hours * 60, 2) + " minutes";
  if (hours < 72) return significant(hours, 2) + " hours";
  return hours < 24 * 730 ? grouped(hours / 24) + " days" : significant(hours / 8766, 2) + " years";
}

function dollars(value) {
  return value >= 1e6 ? "$" + significant(value / 1e6, 3) + "M" : "$" + grouped(value);
}

function read(text) {
  const match = /^\s*\$?\s*([0-9][0-9,_ ]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([kKMGBT]?)\s*$/i.exec(text);
  if (!match) return NaN;
  const scale = { "": 1, K: 1e3, M: 1e6, G: 1e9, B: 1e9, T: 1e12 }[match[2].toUpperCase()];
  return Number(match[1].replace(/[,_ ]/g, "")) * scale;
}

const escaped = text => String(text).replace(/[&<>"]/g, c => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" }[c]));

// ---- sliders: powers of ten, with what the ends stand for -----------------------------------------------------------

const BUDGETS = { gpu_hours: [0, 7], usd: [0, 8], flops: [15, 26] };
const SLIDERS = {
  budget: { key: "budget", range: () => BUDGETS[question.unit], show: v => question.unit === "flops" ? significant(v, 3).replace("e+", "e") : grouped(v) },
  unique: { key: "unique_tokens", range: () => [6, 13], top: null, show: v => v === null ? "unlimited" : count(v, 3) },
  price: { key: "data_usd_per_token", range: () => [-4, 3], scale: 1e-6, bottom: 0, show: v => v === 0 ? "none" : "$" + significant(v * 1e6, 3) },
  rent: { key: "usd_per_gpu_hour", range: () => [-2, 2], show: v => (v || rentOf()).toFixed(2), get: () => question.usd_per_gpu_hour || rentOf() },
  serve: { key: "serve_tokens", range: () => [6, 16], bottom: 0, show: v => v === 0 ? "none" : v < 1e15 ? count(v, 3) : significant(v, 3).replace("e+", "e") },
};
const STEPS = 1000;

function rentOf() { return page.hardware.gpus[question.gpu].usd_per_hour.mid; }

function toSlider(one, value) {
  if (one.top === null && value === null) return STEPS;
  if (one.bottom === 0 && value === 0) return 0;
  const [low, high] = one.range(), t = (Math.log10(value / (one.scale || 1)) - low) / (high - low);
  const inner = [one.bottom === 0 ? 1 : 0, one.top === null ? STEPS - 1 : STEPS];
  return Math.max(inner[0], Math.min(inner[1], Math.round(t * STEPS)));
}

function fromSlider(one, position) {
  if (one.top === null && position === STEPS) return null;
  if (one.bottom === 0 && position === 0) return 0;
  const [low, high] = one.range(), value = Math.pow(10, low + (high - low) * position / STEPS) * (one.scale || 1);
  return Number(value.toPrecision(3));
}

// ---- the question and its address -----------------------------------------------------------------------------------

const SHORT = {
  objective: "o", unit: "x", budget: "b", unique_tokens: "u", data_usd_per_token: "p", gpu: "g", gpus: "n",
  usd_per_gpu_hour: "c", mfu: "m", serve_tokens: "t", repeats: "r", force: "f",
};
let question = Object.assign({}, first);

function toHash(q) {
  const parts = [];
  for (const [key, short] of Object.entries(SHORT)) {
    if (q[key] === first[key]) continue;
    parts.push(short + "=" + (q[key] === null ? "none" : q[key] === true ? 1 : q[key] === false ? 0 : encodeURIComponent(q[key])));
  }
  return parts.join("&");
}

// Whether a number may be asked with: those of a budget are bounded by its unit.
function fits(key, value, unit) {
  const [low, high] = page.limits.bounds[key === "budget" ? unit : key];
  return value >= low && value <= high;
}

function fromHash(hash) {
  const q = Object.assign({}, first), said = new URLSearchParams(hash.replace(/^#/, ""));
  const positive = (key, least) => {
    const text = said.get(SHORT[key]);
    if (text === null) return;
    const value = Number(text);
    if (text === "none" && (key === "unique_tokens" || key === "usd_per_gpu_hour" || key === "mfu")) q[key] = null;
    else if ((least === 0 && text !== "" && value === 0) || fits(key, value, q.unit)) q[key] = value;
  };
  const among = (key, known) => { const text = said.get(SHORT[key]); if (known.includes(text)) q[key] = text; };
  among("objective", page.ensembles.map(one => one.objective));
  among("unit", Object.keys(BUDGETS));
  among("gpu", Object.keys(page.hardware.gpus));
  among("repeats", ["law", "new"]);
  for (const key of ["budget", "unique_tokens", "usd_per_gpu_hour", "mfu", "gpus"]) positive(key);
  q.gpus = Math.max(1, Math.round(q.gpus));
  if (q.mfu > 1) q.mfu = first.mfu;
  for (const key of ["data_usd_per_token", "serve_tokens"]) positive(key, 0);
  if (said.has(SHORT.force)) q.force = said.get(SHORT.force) === "1";
  return q;
}

let saving = 0;
function saveHash() {  // browsers allow an address few changes a second
  clearTimeout(saving);
  saving = setTimeout(() => {
    const hash = toHash(question);
    if (hash !== location.hash.replace(/^#/, "")) history.replaceState(null, "", "#" + hash);
  }, 200);
}

// ---- drawing ----------------------------------------------------------------------------------------------------------

const AT = { left: 52, right: 12, top: 10, bottom: 42 };

const widths = {};
function frame(id) {  // asking for a width makes the browser lay everything out: once is enough
  const W = widths[id] = widths[id] || Math.max(280, Math.round($(id).clientWidth) || 480), H = Math.round(Math.min(360, Math.max(250, W * 0.66)));
  return { W, H, x0: AT.left, x1: W - AT.right, y0: H - AT.bottom, y1: AT.top };
}

function logTicks(low, high, most) {
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    for (const every of steps.length > 1 ? [1] : [1, 2, 3, 5]) {
      const found = [];
      for (let d = Math.floor(Math.log10(low)); d <= Math.log10(high); d++) {
        for (const s of steps) { const t = s * Math.pow(10, d); if (d % every === 0 && t >= low && t <= high) found.push(t); }
      }
      if (found.length <= most) return found;
    }
  }
  return [];
}

function linearTicks(low, high, most) {
  const raw = (high - low) / most, ten = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = [1, 2, 5, 10].map(s => s * ten).find(s => s >= raw);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-12; k++) found.push(k * step);
  return { found, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function scales(f, xs, ys) {
  const [a, b] = xs, [c, d] = ys;
  return {
    x: v => f.x0 + (v - a) / (b - a) * (f.x1 - f.x0), y: v => f.y0 + (v - c) / (d - c) * (f.y1 - f.y0),
  };
}

const near = v => Math.round(v * 10) / 10;

function axes(f, s, xs, ys, labels) {
  const parts = [], y = linearTicks(ys[0], ys[1], 6);
  for (const t of y.found) {
    const at = near(s.y(t));
    parts.push(`<line x1="${f.x0}" x2="${f.x1}" y1="${at}" y2="${at}" stroke="var(--grid)"/><text x="${f.x0 - 7}" y="${at + 4}" text-anchor="end">${t.toFixed(y.decimals)}</text>`);
  }
  for (const t of logTicks(Math.exp(xs[0]), Math.exp(xs[1]), Math.max(3, Math.floor((f.x1 - f.x0) / 58)))) {
    const at = near(s.x(Math.log(t)));
    parts.push(`<line x1="${at}" x2="${at}" y1="${f.y0}" y2="${f.y0 + 4}" stroke="var(--line)"/><text x="${at}" y="${f.y0 + 18}" text-anchor="middle">${count(t, 3)}</text>`);
  }
  parts.push(`<line x1="${f.x0}" x2="${f.x1}" y1="${f.y0}" y2="${f.y0}" stroke="var(--line)"/>`);
  parts.push(`<text x="${(f.x0 + f.x1) / 2}" y="${f.H - 5}" text-anchor="middle">${labels[0]}</text>`);
  parts.push(`<text transform="translate(12 ${(f.y0 + f.y1) / 2}) rotate(-90)" text-anchor="middle">${labels[1]}</text>`);
  return parts.join("");
}

function path(s, xs, values) {
  let text = "";
  for (let i = 0; i < xs.length; i++) text += (i ? "L" : "M") + near(s.x(xs[i])) + " " + near(s.y(values[i]));
  return text;
}

function upright(f, s, logN, style) {
  const at = near(s.x(logN));
  return `<line x1="${at}" x2="${at}" y1="${f.y1}" y2="${f.y0}" ${style}/>`;
}

function drawn(id, f, label, inside) {
  const clip = id + "-clip";
  $(id).innerHTML = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${f.W} ${f.H}" role="img" aria-label="${escaped(label)}"><defs><clipPath id="${clip}"><rect x="${f.x0}" y="${f.y1}" width="${f.x1 - f.x0}" height="${f.y0 - f.y1}"/></clipPath></defs>${inside(clip)}</svg>`;
}

// The sizes worth showing: the band, the draws' own optima and enough beside them to see the valley's walls.
function span(found) {
  const d = found.decision, wall = found.regret + 0.04, last = d.grid.length - 1;
  const sizes = [found.band_low, found.band_high, found.N_low, found.N_high, found.N_minimax].map(Math.log);
  const low = Math.min(...sizes, d.logN - 2), high = Math.max(...sizes, d.logN + 2);
  let a = d.grid.findIndex(x => x > low) - 1, b = d.grid.findIndex(x => x >= high);
  if (b < 0) b = last;
  while (a > 0 && d.mean[a] < wall && d.logN - d.grid[a] < 6) a--;
  while (b < last && d.mean[b] < wall && d.grid[b] - d.logN < 6) b++;
  return [Math.max(0, a), b];
}

// The curves of the decision's own grid: nothing is computed twice, but for the losses of a size that was held.
function curves(ensemble, found) {
  const d = found.decision, [a, b] = span(found), at = d.grid.slice(a, b + 1);
  const every = Math.max(1, Math.ceil(ensemble.draws.length / 100));
  const draws = [];
  const tokens = at.map(found.purse), held = found.size_held;
  for (let k = 0; k < ensemble.draws.length; k += every) {
    const values = held ? at.map((x, i) => ensemble.draws[k].loss(x, tokens[i], found.logU)) : d.losses[k].subarray(a, b + 1);
    draws.push({ form: ensemble.forms[k], values });
  }
  const lowest = found.loss - found.regret, mean = d.mean.subarray(a, b + 1);
  const estimate = Array.from(mean, (one, i) => held ? meanLoss(ensemble, at[i], tokens[i], found.logU) : lowest + one);
  return { at, draws, estimate, xs: [at[0], at[at.length - 1]], mean, worst: d.worst.subarray(a, b + 1) };
}

function lossRange(found, c) {
  const best = c.draws.map(one => Math.min(...one.values)).sort((a, b) => a - b), at = q => best[Math.min(best.length - 1, Math.floor(q * best.length))];
  const low = Math.min(at(0.03), Math.min(...c.estimate)), ends = Math.min(c.estimate[0], c.estimate[c.estimate.length - 1]);
  const high = Math.max(at(0.97) + 0.02, Math.min(ends, found.loss + 0.25), found.loss + 0.05);
  return [low - 0.08 * (high - low), high];
}

const dash = name => ({ N: "", minimax: 'stroke-dasharray="5 4"' })[name];
const key = (style, text) => `<li><svg viewBox="0 0 24 12" aria-hidden="true">${style}</svg>${text}</li>`;
const stroke = (color, more) => `<line x1="1" x2="23" y1="6" y2="6" stroke="var(--${color})" ${more || 'stroke-width="2.4"'}/>`;

function drawValley(ensemble, found, c) {
  const f = frame("valley"), { xs } = c, ys = lossRange(found, c), s = scales(f, xs, ys);
  const shown = ensemble.data.members.map((member, m) => ({ member, m })).sort((a, b) => b.member.weight - a.member.weight);
  const label = `Loss against model size for ${ensemble.draws.length} draws of ${shown.length} law forms. Lowest mean regret at ${count(found.N)} parameters, sizes from ${count(found.band_low)} to ${count(found.band_high)} within 0.01 nats.`;
  drawn("valley", f, label, clip => {
    const green = [s.x(Math.log(found.band_low)), s.x(Math.log(found.band_high))].map(near);
    const lines = shown.map(({ m }) => `<path d="${c.draws.filter(d => d.form === m).map(d => path(s, c.at, d.values)).join("")}" fill="none" stroke="var(--s${m % 6})" stroke-width="1" opacity=".42"/>`).join("");
    const y = f.y0 - 7, q = [found.N_low, found.N_median, found.N_high].map(v => near(s.x(Math.log(v))));
    return axes(f, s, xs, ys, ["parameters N", "loss, nats per token"])
      + `<g clip-path="url(#${clip})"><rect x="${green[0]}" width="${Math.max(1, near(green[1] - green[0]))}" y="${f.y1}" height="${f.y0 - f.y1}" fill="var(--band)" opacity=".75"/>`
      + lines + `<path d="${path(s, c.at, c.estimate)}" fill="none" stroke="var(--ink)" stroke-width="2.4"/>`
      + upright(f, s, Math.log(found.N_minimax), 'stroke="var(--ink)" stroke-width="1.3" stroke-dasharray="5 4"')
      + upright(f, s, Math.log(found.N), 'stroke="var(--ink)" stroke-width="1.6"')
      + `<line x1="${q[0]}" x2="${q[2]}" y1="${y}" y2="${y}" stroke="var(--ink)" stroke-width="4" opacity=".75"/><circle cx="${q[1]}" cy="${y}" r="4.5" fill="var(--card)" stroke="var(--ink)" stroke-width="2"/></g>`;
  });
  $("valley-keys").innerHTML = shown.map(({ member, m }) => key(stroke("s" + m % 6), `${escaped(formName(member.name))} (${percent(member.weight)})`)).join("")
    + key(stroke("ink"), "mean") + key(`<line x1="12" x2="12" y1="0" y2="12" stroke="var(--ink)" stroke-width="1.6"/>`, "recommended N")
    + key(`<line x1="12" x2="12" y1="0" y2="12" stroke="var(--ink)" stroke-width="1.3" stroke-dasharray="3 2"/>`, "smallest worst case")
    + (ensemble.draws.length > 1 ? key(stroke("ink", 'stroke-width="4" opacity=".75"') + '<circle cx="12" cy="6" r="4" fill="var(--card)" stroke="var(--ink)" stroke-width="2"/>', "best N of 80 % of draws, median") : "");
}

function drawRegret(found, c) {
  const f = frame("regret"), { xs, at, mean, worst } = c;
  const top = Math.max(0.05, Math.min(0.4, Math.max(3 * found.regret_minimax, found.regret + 0.06)));
  const ys = [0, top], s = scales(f, xs, ys), level = near(s.y(found.regret + 0.01));
  const label = `Regret against model size: ${found.regret.toFixed(4)} nats on average at ${count(found.N)} parameters, at most ${found.regret_minimax.toFixed(4)} nats at ${count(found.N_minimax)}.`;
  drawn("regret", f, label, clip => {
    const green = [s.x(Math.log(found.band_low)), s.x(Math.log(found.band_high))].map(near);
    return axes(f, s, xs, ys, ["parameters N", "regret, nats per token"])
      + `<g clip-path="url(#${clip})"><rect x="${green[0]}" width="${Math.max(1, near(green[1] - green[0]))}" y="${level}" height="${near(f.y0 - level)}" fill="var(--band)" opacity=".75"/>`
      + `<path d="${path(s, at, worst)}" fill="none" stroke="var(--s1)" stroke-width="2" stroke-dasharray="6 4"/><path d="${path(s, at, mean)}" fill="none" stroke="var(--s0)" stroke-width="2.4"/>`
      + upright(f, s, Math.log(found.N_minimax), 'stroke="var(--ink)" stroke-width="1.3" stroke-dasharray="5 4"')
      + upright(f, s, Math.log(found.N), 'stroke="var(--ink)" stroke-width="1.6"') + "</g>";
  });
  for (const [id, comma] of [["regret-data", "; "], ["others-data", ", "]]) $(id).textContent = found.size_held ? comma + "on unlimited data" : "";
  $("regret-keys").innerHTML = key(stroke("s0"), "mean over draws") + key(stroke("s1", 'stroke-width="2" stroke-dasharray="6 4"'), "worst draw")
    + key('<rect x="1" y="1" width="22" height="10" fill="var(--band)"/>', "within 0.01 nats of the lowest mean");
}

// ---- words --------------------------------------------------------------------------------------------------------------

const percent = share => Math.round(100 * share) + "\u00a0%";
// A formula as HTML: raised exponents, Greek letters.
const GREEK = { alpha: "α", beta: "β", eta: "η" };
function formula(text) {
  const html = escaped(text).replace(/\b(alpha|beta|eta)\b/g, word => GREEK[word]).replace(/ -&gt; /g, " → ");
  const low = html.replace(/([A-Za-z])_([A-Za-z])/g, "$1<sub>$2</sub>");
  return low.replace(/\^\(([^()]*)\)/g, "<sup>$1</sup>").replace(/\^(-?)((?:[\w.αβη]|<sub>\w<\/sub>)+)/g, (_, sign, what) => `<sup>${sign ? "−" : ""}${what}</sup>`);
}
const nats = value => value.toFixed(3);

function asNumbers(found) {
  const gpu = page.hardware.gpus[question.gpu].name, rows = [];
  const add = (name, value, more) => rows.push([name, value, more || ""]);
  if (!found.refused) {
    add("Parameters N", count(found.N), found.band_low ? `${edge(found.band_low, found.band_open[0], "below ")} to ${edge(found.band_high, found.band_open[1], "above ")} within 0.01 nats` : "");
    add("Nearest shape", `${found.shape.layers} × ${found.shape.width.toLocaleString("en-US")}`, `layers × width, ${found.shape.heads} ${found.shape.heads > 1 ? "heads" : "head"}: ${count(found.shape.N, 3)}`);
    add("Training tokens D", count(found.D), significant(found.tokens_per_param, 2) + " per parameter");
    if (found.epochs !== null) add("Epochs", significant(found.epochs, 2), "over " + count(found.unique_tokens, 3) + " unique tokens");
    if (found.new_tokens > 0) add("Tokens to buy", count(found.new_tokens), dollars(found.data_usd));
    if (found.loss !== null) add("Loss, nats per token", nats(found.loss), `80 %: ${nats(found.loss_low)} to ${nats(found.loss_high)}; perplexity ${significant(found.perplexity, 3)}`);
    if (found.N_minimax) add("N of the smallest worst case", count(found.N_minimax), `regret at most ${found.regret_minimax.toFixed(4)} nats`);
  }
  add("Compute 6 N D, FLOPs", power(found.C), found.C_budget > found.C * 1.001 ? "of " + power(found.C_budget) : "");
  const wall = found.gpu_hours / question.gpus;
  add("GPU-hours", grouped(found.gpu_hours), `${duration(wall)} on ${question.gpus} × ${gpu}`);
  add("Cost", dollars(found.usd), found.data_usd > 0 ? `${dollars(found.compute_usd)} compute, ${dollars(found.data_usd)} data` : "at $" + (question.usd_per_gpu_hour || rentOf()).toFixed(2) + " per GPU-hour");
  if (found.energy_kwh !== undefined) add("Energy", grouped(found.energy_kwh) + " kWh", grouped(found.co2_kg) + " kg CO₂");
  return rows;
}

const edge = (value, open, word) => (open ? word : "") + count(value);

function asSentence(found, objective) {
  if (found.refused) {
    return `Refused: ${power(found.C_budget)} FLOPs is ${found.decades.toFixed(1)} decades outside the runs behind this law.`;
  }
  const article = /^[AEFHILMNORSX]/i.test(objective) && objective !== "text" ? "an" : "a", kind = objective === "text" ? "text model" : objective.toUpperCase();
  const data = found.epochs === null ? "" : found.epochs > 1.05 ? `, ${significant(found.epochs, 2)} epochs of ${count(found.unique_tokens)} unique ones` : ", all of them new";
  return `Train ${article} ${kind} of about ${count(found.N)} parameters on ${count(found.D)} tokens${data}.`;
}

function asSecond(found) {
  if (found.refused) return "Beyond 1.5 decades N can be wrong by more than any band says. Choose a budget nearer to the runs, fit a law nearer to your budget, or tick the box to see the answer all the same.";
  if (found.loss === null) return "This law says which size a budget asks for, but not how much worse other sizes are: fit your own runs to see a loss, a band and a regret.";
  const sure = chanceClause(found.probability, chanceDoubts(found.decades, found.form_factor, found.flags), !found.flags.includes("NO_DRAWS"));
  const parts = [`Any size from ${edge(found.band_low, found.band_open[0], "below ")} to ${edge(found.band_high, found.band_open[1], "above ")} gives away less than 0.01 nats more on average; ${sure}.`];
  const life = found.lifetime;
  if (life && life.saving > 0.005) parts.push(`To read ${count(question.serve_tokens)} tokens over its life, ${count(life.N)} parameters trained on ${count(life.D)} tokens reach the same loss for ${percent(life.saving)} less in training and use together (training alone then takes ${power(life.train_flops)} FLOPs).`);
  else if (life) parts.push(`Reading ${count(question.serve_tokens)} tokens over its life does not change the size.`);
  return parts.join(" ");
}

function doubtsOf(found, data) {
  const said = [], strong = (name, text) => said.push([true, name, text]), plainly = (name, text) => said.push([false, name, text]);
  const range = data.range_C ? `${power(data.range_C[0], 2)} to ${power(data.range_C[1], 2)} FLOPs` : "", side = data.range_C && found.C_budget > data.range_C[1] ? "above" : "below";
  const sentences = {
    REFUSED: () => strong("Refused", `the runs span ${range}; this budget lies ${found.decades.toFixed(1)} decades ${side} them.`),
    FAR_OUTSIDE_RANGE: () => strong("Far extrapolation", `the budget lies ${found.decades.toFixed(1)} decades ${side} the runs (${range})${found.decades > page.limits.refuse_decades ? "; you asked for the answer all the same" : ""}. Forms that agree on the runs come apart out here: trust the band more than the number.`),
    ABOVE_RANGE: () => plainly("Extrapolation", `the budget lies ${found.decades.toFixed(1)} decades above the runs (${range}).`),
    BELOW_RANGE: () => plainly("Extrapolation", `the budget lies ${found.decades.toFixed(1)} decades below the runs (${range}).`),
    RANGE_UNKNOWN: () => strong("Range unknown", "the law's source does not say over which budgets it was fitted."),
    TEXT_LAW: () => strong("Text law", "fitted to language models of text; proteins have other exponents and another floor, and losses do not compare."),
    TEXT_REPEATS: () => strong("Text law of repeats", "what a repeated token is worth was measured on text; protein MLMs have been seen to overfit where this law only levels off. Between two sizes of the band take the smaller."),
    NO_DRAWS: () => strong("No interval", "published coefficients without draws: the band shows how flat the valley is, not how uncertain the law."),
    NO_LOSS: () => strong("No loss", "a frontier states sizes alone: no loss, no regret and no band can be given."),
    DATA_REPEATED: () => plainly("Repeats", `${significant(found.epochs, 2)} epochs over ${count(found.unique_tokens, 3)} unique tokens.`),
    DATA_EXHAUSTED: () => strong("Data exhausted", `your unique tokens are repeated ${significant(found.epochs, 2)} times; gaps to fresh data were seen to grow beyond ${page.limits.max_epochs} epochs. More tokens or a smaller budget are the choices.`),
    FORMS_DISAGREE: () => strong("Forms disagree", `the forms' best sizes differ by a factor of ${significant(found.form_factor, 2)}: larger runs would settle it, more of the same kind would not.`),
    BUDGET_NOT_ALL_USEFUL: () => strong("More compute than the data can use", `your unique data cannot use more than about ${power(found.C, 2)} FLOPs, ${percent(found.useful_share)} of what is left for compute: further repeats raise the loss. Keep the rest of the budget, or add tokens.`),
    SIZE_HELD: () => strong("Size held", "N, its band and its regrets are those of unlimited data, the loss is that of your tokens: where repeats lose their worth and parameters do not, the laws would send the rest of the budget into a larger model, and published runs that were short of data went the other way, to more epochs."),
    SIZE_CAPPED: () => strong("Size capped", "the laws would spend more budget on a larger model rather than on repeats; sizes beyond ten times the largest they have seen are not claimed."),
  };
  for (const flag of found.flags) if (sentences[flag]) sentences[flag](); else plainly(flag.replace(/_/g, " ").toLowerCase(), "see the fit's own notes.");
  if (page.hardware.gpus[question.gpu].status !== "read") plainly("Machine", "speed or price of this accelerator are unverified: put in your own.");
  return said;
}

function drawLaws(found, data) {
  const rows = data.members.map((member, m) => {
    const own = found.members && found.members[m], size = own ? (own.N_low === own.N_high ? count(own.N_median) : count(own.N_low) + " to " + count(own.N_high)) : "–";
    const drawn = member.draws.length > 1 ? member.draws.length - 1 : "estimate";
    return `<tr><th scope="row">${escaped(formName(member.name))}</th><td class="word">${formula(member.equation)}</td><td>${percent(member.weight)}</td><td>${drawn}</td><td>${size}</td></tr>`;
  });
  for (const one of data.frontiers) {
    const size = found.frontiers ? count((found.frontiers.find(f => f.name === one.name) || {}).N) : "–";
    rows.push(`<tr><th scope="row">${escaped(one.name)}</th><td class="word">${formula(`N = ${significant(one.k_N, 3)} C^${one.a_N}`)}</td><td>beside</td><td>estimate</td><td>${size}</td></tr>`);
  }
  $("laws").innerHTML = rows.join("");
  const repeats = data.repeats ? ` Repeats: ${data.repeats.kind === "tokens" ? "tokens decay with R_D " + significant(data.repeats.R_D, 3) : data.repeats.kind.replace(/_/g, " ")} (${data.repeats.status}; ${data.repeats.source}).` : "";
  $("provenance").textContent = `${data.source} (${data.status}).${repeats} Noise of a run ${significant(100 * data.noise_sd, 2)} % of the loss; ${significant(100 * data.drift_sd, 2)} % more per root of a decade outside the runs.`;
}

// ---- putting it on the page -------------------------------------------------------------------------------------------

const FACTORS = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8];

function write(found) {
  const ensemble = ensembleFor(page, question), data = ensemble.data;
  $("verdict").textContent = asSentence(found, data.objective);
  $("second").textContent = asSecond(found);
  $("numbers").innerHTML = asNumbers(found).map(([name, value, more]) => `<div><dt>${name}</dt><dd>${escaped(value)}${more ? `<small>${escaped(more)}</small>` : ""}</dd></div>`).join("");
  const doubts = doubtsOf(found, data);
  $("doubts-card").hidden = doubts.length === 0;
  const chips = doubts.filter(([strong]) => strong).map(([, name]) => `<a class="chip" href="#doubts-title">${name}</a>`);
  $("chips").innerHTML = found.refused ? "" : chips.join(" ");
  $("doubts").innerHTML = doubts.map(([strong, name, text]) => `<li${strong ? ' class="strong"' : ""}><b>${name}:</b> ${escaped(text)}</li>`).join("");
  const draws = Boolean(found.decision);
  $("pictures").hidden = $("others-card").hidden = !draws;
  if (draws) {
    const c = curves(ensemble, found);
    drawValley(ensemble, found, c);
    drawRegret(found, c);
    $("epochs-head").hidden = found.unique_tokens === null;
    $("others").innerHTML = neighbours(page, question, found, FACTORS).map(row => `<tr${row.factor === 1 ? ' class="here"' : ""}><th scope="row">${count(row.N)}</th><td>${count(row.D)}</td>${row.epochs === null ? "" : `<td>${significant(row.epochs, 2)}</td>`}<td>${nats(row.loss)}</td><td>${row.regret.toFixed(4)}</td><td>${row.regret_worst.toFixed(4)}</td></tr>`).join("");
  }
  drawLaws(found, data);
  $("source").textContent = `Laws of ${data.objective.toUpperCase()}: ${data.source.split(": ")[0]} (${data.status}).`;
  writeAll(found);
  $("asked").textContent = "Asked: " + asked();
  $("follow").textContent = found.refused ? "Refused" : [count(found.N) + " parameters", count(found.D) + " tokens", dollars(found.usd)].join(" · ");
}

function writeAll(found) {
  if ($("all-details").open) $("all").textContent = JSON.stringify({ question, answer: plain(found) }, null, 1);
}

function asked() {
  const parts = Object.entries(SLIDERS).map(([id, one]) => `${$(id + "-name").textContent.toLowerCase()} ${one.show(one.get ? one.get() : question[one.key])}`);
  return `${question.objective.toUpperCase()}; ${parts.join("; ")}; ${question.gpus} × ${page.hardware.gpus[question.gpu].name}.`;
}

function showControls() {
  for (const name of ["objective", "unit"]) for (const box of document.querySelectorAll(`input[name=${name}]`)) box.checked = box.value === question[name];
  const names = { gpu_hours: "GPU-hours", usd: "US dollars", flops: "Training FLOPs" };
  $("budget-name").textContent = names[question.unit];
  const focused = document.activeElement;
  for (const [id, one] of Object.entries(SLIDERS)) {
    const value = one.get ? one.get() : question[one.key], said = one.show(value), text = $(id + "-text");
    $(id).value = toSlider(one, value);
    $(id).setAttribute("aria-valuetext", said);
    if (text !== focused) { text.value = said; text.classList.remove("bad"); text.removeAttribute("aria-invalid"); }
  }
  const gpu = page.hardware.gpus[question.gpu], price = gpu.usd_per_hour;
  $("rent-hint").textContent = `List prices ${price.low.toFixed(2)} to ${price.high.toFixed(2)}.`;
  $("repeats").value = question.repeats;
  $("gpu").value = question.gpu;
  if ($("gpus") !== focused) $("gpus").value = question.gpus;
  $("force").checked = question.force;
}

let last = null, waiting = 0;

function update() {
  waiting = 0;
  const started = performance.now();
  last = answer(page, question);
  const answered = performance.now();
  showControls();
  write(last);
  const spent = performance.now() - started, all = document.documentElement.dataset;
  delete all.waiting;
  all.answerMs = (answered - started).toFixed(1);
  all.moveMs = spent.toFixed(1);
  $("budget-hint").textContent = budgetHint(last);
}

function budgetHint(found) {
  const part = found.C_budget / found.C, hours = found.gpu_hours * part;
  const said = { gpu_hours: grouped(hours) + " GPU-hours", usd: dollars(hours * (question.usd_per_gpu_hour || rentOf())), flops: power(found.C_budget) + " FLOPs" };
  return Object.keys(said).filter(unit => unit !== question.unit).map(unit => said[unit]).join(", ") + ".";
}

function ask(change) {
  question = Object.assign({}, question, change);
  saveHash();
  document.documentElement.dataset.waiting = "1";  // what is shown answers an older question
  if (!waiting) waiting = requestAnimationFrame(update);
}

function listen() {
  for (const [id, one] of Object.entries(SLIDERS)) {
    $(id).addEventListener("input", () => ask({ [one.key]: fromSlider(one, Number($(id).value)) }));
    const text = $(id + "-text");
    text.addEventListener("change", () => {
      const word = text.value.trim().toLowerCase();
      let value = read(text.value) * (one.scale || 1);
      if (one.top === null && /^(unlimited|none|inf)/.test(word)) value = null;
      if (one.bottom === 0 && (word === "none" || word === "0")) value = 0;
      const fine = value === null || (value === 0 && one.bottom === 0) || fits(one.key, value, question.unit);
      text.classList.toggle("bad", !fine);
      if (!fine) { text.setAttribute("aria-invalid", "true"); return; }
      text.removeAttribute("aria-invalid");
      text.blur();
      ask({ [one.key]: value });
    });
    text.addEventListener("keydown", event => { if (event.key === "Enter") { event.preventDefault(); text.dispatchEvent(new Event("change")); } });
  }
  for (const box of document.querySelectorAll("input[name=objective]")) box.addEventListener("change", () => ask({ objective: box.value }));
  for (const box of document.querySelectorAll("input[name=unit]")) box.addEventListener("change", () => ask({ unit: box.value, budget: converted(box.value) }));
  $("repeats").addEventListener("change", () => ask({ repeats: $("repeats").value }));
  $("gpu").addEventListener("change", () => ask({ gpu: $("gpu").value, usd_per_gpu_hour: null }));
  $("gpus").addEventListener("input", () => { const n = Math.round(Number($("gpus").value)); if (fits("gpus", n)) ask({ gpus: n }); });
  $("force").addEventListener("change", () => ask({ force: $("force").checked }));
  $("reset").addEventListener("click", () => { question = Object.assign({}, first); ask({}); });
  $("ask").addEventListener("submit", event => event.preventDefault());
  $("copy").addEventListener("click", copyLink);
  $("chips").addEventListener("click", event => {  // the address holds the question: no jump may replace it
    if (!event.target.closest("a")) return;
    event.preventDefault();
    $("doubts-title").scrollIntoView({ block: "start" });
    $("doubts-title").focus({ preventScroll: true });
  });
  window.addEventListener("hashchange", () => { question = fromHash(location.hash); ask({}); });
  window.addEventListener("resize", () => { delete widths.valley; delete widths.regret; ask({}); });
  window.addEventListener("beforeprint", () => { widths.valley = widths.regret = 360; write(last); });
  window.addEventListener("afterprint", () => { delete widths.valley; delete widths.regret; ask({}); });
  $("all-details").addEventListener("toggle", () => writeAll(last));
}

// The same budget in another unit, data included.
function converted(unit) {
  const part = last.C_budget / last.C, price = question.usd_per_gpu_hour || rentOf();
  const value = { gpu_hours: last.gpu_hours * part, usd: last.gpu_hours * part * price, flops: last.C_budget }[unit];
  return Number(value.toPrecision(3));
}

function copyLink() {
  const link = location.href.replace(/#.*$/, "") + "#" + toHash(question), done = () => { $("copied").textContent = "Copied."; };
  if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(link).then(done, () => { $("copied").textContent = link; });
  else $("copied").textContent = link;
}

question = fromHash(location.hash);
listen();
update();
root.sizingPage = { page, ask: change => answer(page, Object.assign({}, question, change)), toHash, fromHash };
})(globalThis);

// The page's code under node, without a browser.
//
//   node sizing_check.js EXAMPLES.json [PAGE.html]   worked examples: pass or the difference for each; exit 1 on any
//   node sizing_check.js REQUESTS.json [PAGE.html]   {"requests": [...]}: answers as JSON to {kind, inputs}, {question}
//                                                    and {losses: {objective, N, D, U}} (U null: unlimited);
//                                                    {chance: {share, decades, form_factor, flags}}, {form}: in words
//
// The code is that of PAGE.html, or of the files beside this one; questions and losses are asked of the page's laws.
"use strict";
const fs = require("fs");
const path = require("path");
const vm = require("vm");

const SCRIPTS = ["sizing-math", "sizing-kinds", "sizing-answer", "sizing-words"];

function inPage(html, id) {
  const found = new RegExp('<script[^>]* id="' + id + '"[^>]*>([\\s\\S]*?)</script>').exec(html);
  if (!found) throw new Error("the page holds no script " + id);
  return found[1];
}

function main() {
  const [examples, file] = process.argv.slice(2);
  if (!examples) throw new Error("usage: node sizing_check.js EXAMPLES.json [PAGE.html]");
  const html = file ? fs.readFileSync(file, "utf8") : null;
  for (const id of SCRIPTS) {
    const name = path.join(__dirname, id.replace("-", "_") + ".js");
    vm.runInThisContext(html ? inPage(html, id) : fs.readFileSync(name, "utf8"), { filename: id });
  }
  const asked = JSON.parse(fs.readFileSync(examples, "utf8"));
  if (asked.requests) return answers(asked.requests, html);
  return report(globalThis.sizingKinds.checkExamples(asked));
}

function answers(requests, html) {
  const page = html ? JSON.parse(inPage(html, "page-data")) : null;
  const found = requests.map(one => {
    try {
      return { answer: answered(page, one) };
    } catch (fault) {
      return { error: fault.message };
    }
  });
  process.stdout.write(JSON.stringify(found));
  return 0;
}

function answered(page, one) {
  const { answer, plain } = globalThis.sizingAnswer;
  if (one.kind) return globalThis.sizingKinds.answer(one.kind, one.inputs);
  if (one.chance) return inWords(one.chance);
  if (one.form) return globalThis.sizingWords.formName(one.form);
  if (!page) throw new Error("only a page has laws to ask");
  if (one.question) return plain(answer(page, Object.assign({}, page.question, one.question)));
  return losses(page, one.losses);
}

function inWords({ share, decades, form_factor, flags }) {
  const words = globalThis.sizingWords;
  return words.chanceClause(share, words.chanceDoubts(decades, form_factor, flags), !flags.includes("NO_DRAWS"));
}

// Losses of every draw and of every estimate at points: {draws: [[...]], estimates: [[...]]}.
function losses(page, asked) {
  const ensemble = globalThis.sizingAnswer.ensembleFor(page, { objective: asked.objective });
  const at = row => asked.N.map((N, i) => {
    const U = asked.U ? Math.log(asked.U[i]) : Infinity;
    return row.loss(Math.log(N), Math.log(asked.D[i]), U);
  });
  return { draws: ensemble.draws.map(at), estimates: ensemble.estimates.map(at) };
}

function report(examples) {
  let failed = 0;
  for (const example of examples) {
    const wrong = example.rows.filter(row => !row.passes);
    failed += wrong.length ? 1 : 0;
    process.stdout.write((wrong.length ? "FAIL " : "pass ") + example.id + "\n");
    for (const row of wrong) {
      process.stdout.write("  case " + (row.case + 1) + " " + (row.error || row.key + ": got " + row.got + ", want " + row.want) + "\n");
    }
  }
  return failed ? 1 : 0;
}

process.exitCode = main();

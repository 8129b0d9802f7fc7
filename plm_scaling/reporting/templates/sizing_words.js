// How sure an answer is, in words: those of plm_scaling/sizing/decision_wording.py, letter for letter.
(function (root) {
"use strict";

const VALLEY_NATS = 0.01, SURE_DECADES = 0.5;

function chance(share) {
  if (share > 0.99) return "over 99 %";
  return share < 0.01 ? "under 1 %" : Math.floor(100 * share + 0.5) + " %";
}

function chanceDoubts(decades, formFactor, flags) {
  const said = [];
  if (decades > SURE_DECADES) said.push(`they are asked ${decades.toFixed(1)} decades outside their runs`);
  if (flags.includes("FORMS_DISAGREE")) said.push(`their forms disagree on N by a factor ${formFactor.toFixed(1)}`);
  if (flags.includes("TEXT_REPEATS")) said.push("what repeats are worth is taken from text");
  return said;
}

function chanceClause(share, doubts, known) {
  if (!known) return `how probable it is that this size is within ${VALLEY_NATS} nats of the best for this budget cannot be said, for the laws state no uncertainty`;
  const said = `if one of these laws holds, this size is within ${VALLEY_NATS} nats of the best for this budget with probability ${chance(share)}`;
  return said + (doubts.length ? ` (and that is in doubt: ${doubts.join("; ")})` : "");
}

// A form of an ensemble in words.
function formName(member) {
  const [form, plateau] = member.split(", L0 = "), words = form.replace("+batch", " with a batch term").replace(/_/g, " ");
  return plateau ? `${words}, at most ${Number(plateau).toFixed(2)} nats` : words;
}

root.sizingWords = { formName, chance, chanceDoubts, chanceClause };
})(globalThis);

// The flows of the fleet, as the browser holds them, and the language that filters them.

import { Source, get } from "./api.js";
import { now, words } from "./text.js";

/** The states of a flow, the most urgent first. */
export const HEALTHS = ["problem", "failing", "late", "unusual", "running", "deferred", "disabled", "new", "well"];

const EVERY = 20; // seconds
const ALL_EVERY = 600_000; // ms: leases and deferrals end without a change of any document

/** The fleet: `{atTs, lines, readAt}`. The first answer has all lines, later ones those of the changed tenants. */
export const fleet = new Source(read, EVERY);

async function read(before) {
  const isDelta = before && Date.now() - before.readAt < ALL_EVERY;
  const answer = await get("fleet", isDelta ? { since: before.atTs } : {});
  if (!isDelta || answer.complete) return { atTs: answer.atTs, readAt: Date.now(), lines: aged(sorted(answer.lines.map(prepared))) };
  const isSame = !answer.lines.length && !answer.removed?.length;
  return { ...before, atTs: answer.atTs, lines: aged(isSame ? before.lines : sorted(merged(before.lines, answer))) };
}

/** Return the lines as they are now: a flow becomes late when time passes, without a change. The same list if none has. */
function aged(lines) {
  const present = now();
  if (!lines.some((line) => line.lateFrom < present)) return lines;
  return lines.map((line) => {
    if (!(line.lateFrom < present)) return line;
    const lateSinceUtc = Date.parse(line.overdueUtc) < present ? line.nextRunUtc : line.staleUtc;
    const health = urgency(line) > HEALTHS.indexOf("late") ? "late" : line.health;
    return { ...line, lateSinceUtc, health, lateFrom: Infinity };
  });
}

/** Return the lines with those of the tenants in a delta in place of the former ones. */
export function merged(lines, { lines: changed, removed = [] }) {
  const tenants = new Set([...changed.map((each) => each.tenantId), ...removed]);
  return [...lines.filter((each) => !tenants.has(each.tenantId)), ...changed.map(prepared)];
}

function prepared(line) {
  const text = [line.tenantId, line.flowName, line.problem, line.lastOutcome && words(line.lastOutcome)];
  return {
    ...line,
    lateFrom: line.enabled && !isProblem(line) && !isLate(line) ? Math.min(...[line.overdueUtc, line.staleUtc].map(timeOf)) : Infinity,
    id: JSON.stringify([line.tenantId, line.flowName, line.flowName ? null : line.problem]),
    searched: text.filter(Boolean).join("\n").toLowerCase(),
  };
}

const timeOf = (utc) => (utc == null ? Infinity : Date.parse(utc));

const byText = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

const sorted = (lines) => lines.sort((a, b) => byText(a.tenantId, b.tenantId) || byText(a.flowName ?? "", b.flowName ?? ""));

const urgency = (line) => HEALTHS.indexOf(line.health);

/** Return the outcomes of the last attempts, oldest first, as far as they are known. */
export const outcomesOf = (line) => (line.outcomes?.length ? line.outcomes : line.lastOutcome ? [line.lastOutcome] : []);

/** By what the lines can be sorted. Equal ones stay in the order of tenant and flow. */
export const ORDERS = {
  health: (a, b) => urgency(a) - urgency(b),
  tenant: () => 0,
  flow: (a, b) => byText(a.flowName ?? "", b.flowName ?? ""),
  success: (a, b) => byText(a.lastSuccessUtc ?? "", b.lastSuccessUtc ?? ""),
  next: (a, b) => byText(a.nextRunUtc ?? "~", b.nextRunUtc ?? "~"),
  failures: (a, b) => b.consecutiveFailures - a.consecutiveFailures,
};

/** Return whether a line is what `is:` names. */
const IS = {
  wrong: (line) => isFailing(line) || isLate(line) || isUnusual(line) || isProblem(line),
  failing: isFailing,
  late: isLate,
  problem: isProblem,
  enabled: (line) => line.enabled,
  disabled: (line) => !line.enabled && line.cron != null,
  unusual: isUnusual,
  running: (line) => line.health === "running",
  deferred: (line) => line.health === "deferred",
  new: (line) => line.health === "new",
  well: (line) => line.health === "well",
};

function isFailing(line) {
  return line.enabled && line.consecutiveFailures > 0;
}

function isLate(line) {
  return line.lateSinceUtc != null;
}

function isUnusual(line) {
  return line.enabled && Boolean(line.unusual?.length);
}

function isProblem(line) {
  return line.problem != null;
}

/** Return the lines that are what `is:` names. */
export const linesThatAre = (name, lines) => lines.filter(IS[name]);

const FIELDS = {
  tenant: (line) => line.tenantId,
  flow: (line) => line.flowName ?? "",
  outcome: (line) => line.lastOutcome ?? "",
};

/** Return the parts of a filter: words, divided by spaces, with text in quotes as one. */
function parts(text) {
  return [...text.matchAll(/(-?)(?:(\w+):)?(?:"([^"]*)"?|(\S+))/g)].map(([, minus, name, quoted, bare]) => ({
    isNot: minus === "-",
    name: name?.toLowerCase(),
    value: (quoted ?? bare).toLowerCase(),
    isQuoted: quoted !== undefined,
  }));
}

/** Return a test of one text: the value is part of it, or with `*` or in quotes all of it. */
function matcher({ value, isQuoted }) {
  if (isQuoted) return (text) => text === value;
  if (!value.includes("*")) return (text) => text.includes(value);
  const pieces = value.split("*").map((each) => each.replace(/[\\^$.|?+()[\]{}]/g, "\\$&"));
  const expression = new RegExp(`^${pieces.join(".*")}$`, "s");
  return (text) => expression.test(text);
}

/**
 * Return `{matches, error}` of a filter such as `is:failing flow:weather tenant:ac* -timeout`. All parts must match.
 *
 * `error` is a sentence about a part that means nothing; such a part is left out.
 */
export function parseFilter(text) {
  const tests = [];
  let error = null;
  for (const part of parts(text)) {
    let test;
    if (part.name === "is") {
      test = Object.hasOwn(IS, part.value) ? IS[part.value] : null;
      if (!test) error = `is:${part.value} is none of ${Object.keys(IS).map((each) => `is:${each}`).join(", ")}`;
    } else if (part.name && Object.hasOwn(FIELDS, part.name)) {
      const [field, match] = [FIELDS[part.name], matcher(part)];
      test = (line) => match(field(line).toLowerCase());
    } else {
      const value = part.name ? `${part.name}:${part.value}` : part.value;
      test = (line) => line.searched.includes(value);
    }
    if (test) tests.push(part.isNot ? (line) => !test(line) : test);
  }
  return { matches: (line) => tests.every((each) => each(line)), error };
}

/** Return a part of a filter that matches exactly this value. */
export const exactly = (name, value) => (value.includes('"') ? `${name}:${value.replace(/["\s]/g, "*")}` : `${name}:"${value}"`);

const COLUMNS = ["tenantId", "flowName", "health", "enabled", "cron", "nextRunUtc", "lastRunUtc", "lastOutcome", "lastSuccessUtc",
  "consecutiveFailures", "lateSinceUtc", "problem"];

/**
 * Return lines as CSV (RFC 4180).
 *
 * A spreadsheet runs a text that starts like a formula; a quotation mark before it makes it a text:
 * https://owasp.org/www-community/attacks/CSV_Injection
 */
export function csv(lines) {
  const cell = (value) => {
    const text = value == null ? "" : String(value);
    const safe = /^[=+\-@\t\r\n＝＋－＠]/u.test(text) ? `'${text}` : text;
    return `"${safe.replaceAll('"', '""')}"`;
  };
  return [COLUMNS, ...lines.map((line) => COLUMNS.map((name) => line[name]))].map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

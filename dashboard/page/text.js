// Texts for people: times, numbers, and texts from elsewhere.

import { kept, store } from "./store.js";

/** In which zone times are shown: "utc", "local" or "tenant". */
export const zoneChoice = kept(localStorage, "datasync.zone", "utc");
/** How far the app's clock is ahead of the browser's, in milliseconds. */
export const skew = store(0);

/** Return the present time of the app, in milliseconds. */
export const now = () => Date.now() + skew.get();

const INVISIBLE = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u2028\u2029]/gu;

/** Return a text from elsewhere with its invisible characters, such as a change of direction, escaped. */
export function plain(value) {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return text.replace(INVISIBLE, (each) => (each === "\n" || each === "\t" ? each : `\\u{${each.codePointAt(0).toString(16)}}`));
}

/** Return a number with its noun: "1 tenant", "10,000 tenants". */
export const counted = (number, noun, many = `${noun}s`) => `${grouped(number)} ${number === 1 ? noun : many}`;

const NUMBERS = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

/** Return a number as people read it: "10,000". */
export const grouped = (number) => (typeof number === "number" ? NUMBERS.format(number) : plain(number));

const FORMATS = new Map();

function format(zone, fields) {
  const name = `${zone}|${fields.year ?? ""}|${fields.timeZoneName ?? ""}`;
  let found = FORMATS.get(name);
  if (!found) {
    try {
      found = new Intl.DateTimeFormat("en-US", { ...fields, timeZone: zone });
    } catch {
      return undefined; // a zone that this browser does not know
    }
    FORMATS.set(name, found);
  }
  return found;
}

const SHORT = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const LONG = { ...SHORT, year: "numeric", second: "2-digit", timeZoneName: "short" };

const LOCAL = Intl.DateTimeFormat().resolvedOptions().timeZone;

function written(made, at) {
  const parts = Object.fromEntries(made.formatToParts(at).map((each) => [each.type, each.value]));
  const date = [parts.day, parts.month, parts.year].filter(Boolean).join(" ");
  const time = [parts.hour, parts.minute, parts.second].filter(Boolean).join(":");
  return { date, time, zone: parts.timeZoneName ?? "" };
}

/** Return the zone in which times are shown, for a tenant whose zone may be unknown. */
export const shownZone = (choice, tenantZone) => (choice === "local" ? LOCAL : choice === "tenant" && tenantZone ? tenantZone : "UTC");

/** Return a time as people read it: the clock alone on the present day, without the year in the present year. */
export function timeText(iso, choice, tenantZone, present = now()) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return plain(iso);
  const zone = shownZone(choice, tenantZone);
  const made = format(zone, SHORT) ?? format("UTC", SHORT);
  const own = written(made, at);
  const isThisYear = Math.abs(at.getTime() - present) < 300 * 86_400_000;
  const date = own.date === written(made, present).date && isThisYear ? "" : isThisYear ? `${own.date} ` : `${own.date} ${at.getUTCFullYear()} `;
  const named = choice === "tenant" ? ` ${written(format(zone, LONG) ?? format("UTC", LONG), at).zone}` : "";
  return `${date}${own.time}${named}`;
}

/** Return a time in UTC, in the zone of the browser, and in that of the tenant. */
export function timeTitle(iso, tenantZone) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return plain(iso);
  const lines = [["UTC", "UTC"], ["here", LOCAL], ["tenant", tenantZone]].flatMap(([name, zone]) => {
    const made = zone && format(zone, LONG);
    if (!made) return [];
    const own = written(made, at);
    return [`${own.date} ${own.time} ${own.zone}${name === "UTC" ? "" : ` (${name}: ${plain(zone)})`}`];
  });
  return lines.join("\n");
}

const UNITS = [["d", 86_400], ["h", 3_600], ["min", 60], ["s", 1]];

/** Return a duration in seconds as people read it: "0.4 s", "3 min", "5 h". */
export function durationText(seconds) {
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  const [unit, size] = UNITS.find(([, each]) => seconds >= each);
  const whole = Math.floor(seconds / size);
  return `${whole} ${unit}`;
}

/** Return how far a time is from now: "3 min ago", "in 5 h". */
export function agoText(iso, present = now()) {
  const seconds = (present - new Date(iso).getTime()) / 1000;
  if (Number.isNaN(seconds)) return "";
  if (Math.abs(seconds) < 10) return "now";
  return seconds > 0 ? `${durationText(seconds)} ago` : `in ${durationText(seconds < -90 ? 30 - seconds : -seconds)}`;
}

/** Return the seconds between two times. */
export const secondsBetween = (start, end) => (new Date(end).getTime() - new Date(start).getTime()) / 1000;

/** Return the words of an outcome, a health or a cause: "gave up". */
export const words = (name) => plain(name ?? "").replaceAll("_", " ");

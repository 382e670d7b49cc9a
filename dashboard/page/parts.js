// The parts that views share: outcomes, times, tables, notes.

import { useEffect, useState, html } from "./preact.js";
import { refreshAll } from "./api.js";
import { useStore, store } from "./store.js";
import { agoText, now, plain, timeText, timeTitle, words, zoneChoice } from "./text.js";

/** Return the address of a view of this page. */
export const link = {
  now: () => "#/",
  files: () => "#/files",
  fleet: (filter = "") => (filter ? `#/fleet?q=${encodeURIComponent(filter)}` : "#/fleet"),
  tenant: (tenant, flow) => `#/tenant/${encodeURIComponent(tenant)}${flow ? `?flow=${encodeURIComponent(flow)}` : ""}`,
  run: (tenant, run) => `#/run/${encodeURIComponent(tenant)}/${encodeURIComponent(run)}`,
};

/** A text from elsewhere. Its direction does not change that of the words around it. */
export const Text = ({ children }) => html`<bdi>${plain(children ?? "")}</bdi>`;

const TONES = {
  ok: ["succeeded", "continued", "well", "loaded"],
  bad: ["failed", "dead", "gave_up", "failing", "problem", "broken"],
  warn: ["late", "interrupted", "unusual", "missing"],
  busy: ["running", "deferred"],
};

/** Return the tone of an outcome or a health: ok, bad, warn, busy or mute. */
export const toneOf = (name) => Object.keys(TONES).find((tone) => TONES[tone].includes(name)) ?? "mute";

// Each has a shape of its own, so that nobody has to tell them by colour.
const SHAPES = {
  ok: "M2.5 6.5 5 9l4.5-6",
  bad: "M3 3l6 6M9 3l-6 6",
  warn: "M6 1.8 11 10.4H1zM6 5v2.4M6 8.9v.2",
  busy: "M4 2.5v7l5.5-3.5z",
  mute: "M2.5 6h7",
};
const OWN_SHAPES = {
  problem: "M6 1.8 11 10.4H1zM6 5v2.4M6 8.9v.2",
  late: "M6 1.5a4.5 4.5 0 1 0 .01 0M6 3.5V6l2 1.3",
  deferred: "M4 2.5v7M8 2.5v7",
  change: "M2.5 9.5 3 7.5 8 2.5l1.5 1.5-5 5z",
  new: "M6 2.5a3.5 3.5 0 1 0 .01 0",
};

/** The sign of an outcome or a health. The word beside it says the same. */
export const Sign = ({ name }) =>
  html`<svg class="sign ${toneOf(name)}" viewBox="0 0 12 12" width="12" height="12" aria-hidden="true" focusable="false">
    <path d=${OWN_SHAPES[name] ?? SHAPES[toneOf(name)]} />
  </svg>`;

/** An outcome, a health or a cause: its sign and its word. */
export const Badge = ({ name, label }) => html`<span class="badge ${toneOf(name)}"><${Sign} name=${name} />${label ?? words(name)}</span>`;

const HEIGHTS = { ok: 6, bad: 14, warn: 10, busy: 4, mute: 2 };

/** The last outcomes, oldest first, as bars: the higher, the worse. */
export function Outcomes({ names }) {
  if (!names?.length) return html`<span class="quiet">–</span>`;
  const numbers = new Map();
  for (const name of names) numbers.set(name, (numbers.get(name) ?? 0) + 1);
  const said = [...numbers].map(([name, number]) => `${number} ${words(name)}`).join(", ");
  return html`<svg class="outcomes" role="img" aria-label=${`Last ${names.length}: ${said}`} width=${5 * names.length} height="14" viewBox=${`0 0 ${5 * names.length} 14`}>
    ${names.map((name, index) => {
      const tone = toneOf(name);
      return html`<rect class=${tone} x=${index * 5} y=${14 - HEIGHTS[tone]} width="3.5" height=${HEIGHTS[tone]} />`;
    })}
  </svg>`;
}

const beat = store(0);
setInterval(() => beat.set(now()), 10_000);

/** A time, in the zone that the user has chosen, and how long ago it was. */
export function Time({ at, zone, ago = true, none = "–" }) {
  const choice = useStore(zoneChoice);
  useStore(beat);
  if (!at) return html`<span class="quiet">${none}</span>`;
  return html`<time dateTime=${at} title=${timeTitle(at, zone)}>${timeText(at, choice, zone)}${ago && html` <span class="quiet">${agoText(at)}</span>`}</time>`;
}

/** How long ago a time was. */
export function Ago({ at, zone, none = "–" }) {
  useStore(beat);
  if (!at) return html`<span class="quiet">${none}</span>`;
  return html`<time dateTime=${at} title=${timeTitle(at, zone)}>${agoText(at)}</time>`;
}

/** What a view shows while it has no data, and an error beside the data that it has. */
export function Loaded({ from, what, children }) {
  if (from.data !== undefined) return html`${from.error && html`<${Failed} error=${from.error} what=${what} />`}${children}`;
  if (from.error) return html`<${Failed} error=${from.error} what=${what} />`;
  return html`<p class="quiet loading">Reading ${what}…</p>`;
}

function Failed({ error, what }) {
  if (error.status === 404) return html`<p class="note warn"><${Sign} name="problem" /> <${Text}>${error.message}<//></p>`;
  return html`<p class="note bad">
    <${Sign} name="failed" /> <span>Reading ${what} has failed: <${Text}>${error.message}<//>.</span>
    <button type="button" onClick=${() => refreshAll()}>Try again</button>
  </p>`;
}

/** A heading of a view, to which the focus moves when the view opens. */
export function Title({ children, title }) {
  useEffect(() => {
    document.title = `${plain(title)} · DataSync`;
  }, [title]);
  return html`<h1 tabindex="-1">${children}</h1>`;
}

/** A table that scrolls sideways where the screen is narrow. */
export const Table = ({ label, head, numbers = [], children }) =>
  html`<div class="scroll" tabindex="0" role="region" aria-label=${`${label}, table`}>
    <table>
      <thead>
        <tr>${head.map((each) => html`<th scope="col" class=${numbers.includes(each) ? "number" : undefined}>${each}</th>`)}</tr>
      </thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;

/** A text that can be copied. */
export function Copy({ text, label }) {
  const [isDone, setDone] = useState(false);
  const copy = () => navigator.clipboard?.writeText(text).then(() => setDone(true), () => setDone(false));
  return html`<button type="button" class="small" onClick=${copy} aria-label=${`Copy ${label}`}>${isDone ? "Copied" : "Copy"}</button>`;
}

/** The last news for a screen reader, and for the eye: what an action has done. */
export const news = store("");

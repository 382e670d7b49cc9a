// The dialog that every action goes through.

import { useEffect, useRef, useState, html } from "./preact.js";
import { me, post, refreshAll, useSource } from "./api.js";
import { news, Text } from "./parts.js";
import { kept, store, useStore } from "./store.js";
import { counted, grouped, plain } from "./text.js";

const asked = store(null);
const typedName = kept(localStorage, "datasync.name", "");

/**
 * Ask before an action.
 *
 * `{action, title, text, more, fields, count, body, button, done, failed}`: `body(values)` is what is sent; `more` is shown
 * below the text; `fields` are `{name, label, …}` of inputs; the user types `count` back if there is one. A second click
 * sends the same action id, which the app does once. After a refusal, the next one is another action. `done()` and `failed(error)` are called at the end.
 */
export function ask(action) {
  asked.set({ ...action, actionId: crypto.randomUUID() });
}

/** The dialog, while an action is asked for. */
export function Asked() {
  const action = useStore(asked);
  return action && html`<${Dialog} key=${action.actionId} action=${action} />`;
}

function Dialog({ action }) {
  const [error, setError] = useState(null);
  const [isBusy, setBusy] = useState(false);
  const isSending = useRef(false); // at once: a second click comes before the next render
  const id = useRef(action.actionId);
  const dialog = useRef();
  const { data: own } = useSource(me);
  const needsName = own?.mode === "key";
  const { count, fields = [] } = action;

  useEffect(() => {
    const opener = document.activeElement;
    dialog.current.showModal();
    return () => opener?.isConnected && opener.focus();
  }, []);

  const send = async (event) => {
    event.preventDefault();
    if (isSending.current) return;
    const values = Object.fromEntries(new FormData(event.target));
    if (count !== undefined && values.count.replaceAll(/[,\s]/g, "") !== String(count)) {
      setError({ message: `Type ${grouped(count)} to confirm. You typed ${plain(values.count) || "nothing"}.` });
      return;
    }
    if (needsName) typedName.set(values.who.trim());
    isSending.current = true;
    setBusy(true);
    setError(null);
    try {
      const body = { ...action.body(values), actionId: id.current, ...(needsName && { who: values.who.trim() }) };
      const answer = await post(action.action, body);
      news.set(answer.message ?? `Done: ${action.title}`);
      asked.set(null);
      action.done?.();
      refreshAll({ isFresh: true });
    } catch (failure) {
      isSending.current = false;
      setBusy(false);
      if (failure.status >= 400 && failure.status < 500) id.current = crypto.randomUUID(); // it was refused: that was its end
      const message = failure.status === 409 ? `${failure.message} Close this, look at the new values, and try again.` : failure.message;
      setError({ message, problems: failure.problems });
      action.failed?.(failure);
      if (failure.status === 409) refreshAll({ isFresh: true });
    }
  };

  return html`<dialog ref=${dialog} aria-labelledby="asked" onClose=${() => asked.set(null)}>
    <form onSubmit=${send} novalidate=${false}>
      <h2 id="asked"><${Text}>${action.title}<//></h2>
      ${action.text && html`<p><${Text}>${action.text}<//></p>`}
      ${action.more}
      ${fields.map(
        ({ name, label, hint, options, rows, ...rest }) => html`<label>
          <span>${label}</span>
          ${rows
            ? html`<textarea name=${name} rows=${rows} spellcheck=${false} ...${rest}></textarea>`
            : options
            ? html`<select name=${name} ...${rest}>${options.map(([value, said]) => html`<option value=${value}>${said}</option>`)}</select>`
            : html`<input name=${name} autocomplete="off" ...${rest} />`}
          ${hint && html`<small class="quiet">${hint}</small>`}
        </label>`,
      )}
      ${count !== undefined &&
      html`<label><span>Type <strong>${grouped(count)}</strong> to confirm</span><input name="count" inputmode="numeric" autocomplete="off" required /></label>`}
      ${needsName &&
      html`<label><span>Your name, for the audit</span><input name="who" autocomplete="name" required maxlength="100" defaultValue=${typedName.get()} /></label>`}
      ${error && html`<div class="note bad" role="alert"><div><${Text}>${error.message}<//><${Problems} problems=${error.problems} /></div></div>`}
      <div class="buttons">
        <button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
        <button type="submit" class="primary" aria-disabled=${isBusy}>${isBusy ? "Working…" : action.button}</button>
      </div>
    </form>
  </dialog>`;
}

/** What has to be corrected, each with its place. */
export const Problems = ({ problems }) =>
  problems?.length > 0 && html`<ul>${problems.map((each) => html`<li key=${each}><${Text}>${each}<//></li>`)}</ul>`;

/** Whether the user may change something. */
export const useCanOperate = () => useSource(me).data?.canOperate ?? false;

/** A button that asks for an action. It is left out for a user who may only read. */
export function Act({ children, class: name = "", label, ...action }) {
  return useCanOperate() && html`<button type="button" class=${name} aria-label=${label} onClick=${() => ask(action)}>${children}</button>`;
}

const what = (tenant, flow) => (flow ? `${flow} of ${tenant}` : `all flows of ${tenant}`);

export const enqueue = (line) => ({
  action: "enqueue",
  title: `Run ${what(line.tenantId, line.flowName)} now`,
  text: "A run is sent to the queue. The schedule stays as it is.",
  button: "Run now",
  body: () => ({ tenant: line.tenantId, flow: line.flowName }),
});

export const pause = (line) => ({
  action: "pause",
  title: `Pause ${what(line.tenantId, line.flowName)}`,
  text: "No run starts until somebody resumes it. A run that is going on ends first.",
  fields: [{ name: "reason", label: "Reason", maxlength: 200, hint: "It is stored in the tenant's document" }],
  button: "Pause",
  body: ({ reason }) => ({ tenant: line.tenantId, flow: line.flowName, reason, seen: seen(line) }),
});

export const resume = (line) => ({
  action: "resume",
  title: `Resume ${what(line.tenantId, line.flowName)}`,
  text: "If a time was missed, it runs once, at the next tick.",
  button: "Resume",
  body: () => ({ tenant: line.tenantId, flow: line.flowName, seen: seen(line) }),
});

export const nextRun = (line) => ({
  action: "next-run",
  title: `Next run of ${what(line.tenantId, line.flowName)}`,
  text: "The times after it follow the cron again.",
  fields: [
    {
      name: "at",
      label: "Time in UTC",
      type: "datetime-local",
      step: 1,
      defaultValue: line.nextRunUtc?.slice(0, 19) ?? "",
      hint: "Empty: the next tick computes it from the cron",
    },
  ],
  button: "Set",
  body: ({ at }) => ({ tenant: line.tenantId, flow: line.flowName, at: at ? utcOf(at) : null, seen: seen(line) }),
});

/** Return the time of an input, which leaves out seconds that are zero. */
const utcOf = (at) => `${at.length === 16 ? `${at}:00` : at}Z`;

/** What the operator has seen: of an entry, its switch and its next run; of a tenant with all its entries, the version. */
const seen = (line) => (line.flowName ? { enabled: line.enabled, nextRunUtc: line.nextRunUtc ?? null } : { _etag: line.etag });

/** `filter` says which dead runs: `{fingerprint, since}`, or `{tenant, flow}`; `count` is how many the operator has seen. */
export const retry = (filter, count) => ({
  action: "retry",
  title: `Run ${counted(count, "dead run")} again`,
  text: "Each run is sent to the queue once. Runs whose cause still exists die again.",
  fields: [
    {
      name: "spread",
      label: "Spread over",
      options: [["600", "10 minutes"], ["3600", "1 hour"], ["14400", "4 hours"], ["0", "no time: all at once"]],
    },
  ],
  count,
  button: `Run ${grouped(count)} again`,
  body: ({ spread }) => ({ ...filter, count, spreadSeconds: Number(spread) }),
});

export const purge = (filter, count) => ({
  action: "purge",
  title: `Purge ${counted(count, "dead run")}`,
  text: "They leave the list of dead runs for good, and cannot be run again. Their records stay until they expire.",
  count,
  button: `Purge ${grouped(count)}`,
  body: () => ({ ...filter, count }),
});

export const openGate = (gate) => ({
  action: "gate-open",
  title: `Open ${gate.provider} for ${gate.tenantId ?? "all tenants"}`,
  text: `${gate.provider} has asked not to be called${gate.untilUtc ? ` until ${gate.untilUtc}` : ""}. If you open it, it is called again now. Runs that wait stay on the queue until their time.`,
  button: "Open",
  body: () => ({ provider: gate.provider, tenant: gate.tenantId, untilUtc: gate.untilUtc }),
});

/** `memory` is what the operator has seen: `{cursorJson, windowEndUtc}`. */
export const setCursor = (line, memory) => ({
  action: "cursor-set",
  title: `Cursor of ${what(line.tenantId, line.flowName)}`,
  text: "The next run starts from this value.",
  fields: [{ name: "cursor", label: "Cursor, as JSON", rows: 6, required: true, defaultValue: memory.cursorJson }],
  button: "Set",
  body: ({ cursor }) => ({ tenant: line.tenantId, flow: line.flowName, cursorJson: cursor, seenJson: memory.cursorJson }),
});

export const resetCursor = (line, memory) => ({
  action: "cursor-set",
  title: `Reset the cursor of ${what(line.tenantId, line.flowName)}`,
  text: "The next run starts from the beginning.",
  button: "Reset",
  body: () => ({ tenant: line.tenantId, flow: line.flowName, cursorJson: null, seenJson: memory.cursorJson }),
});

/** `start` is the time that is proposed. */
export const setWindow = (line, memory, start = memory.windowEndUtc) => ({
  action: "window-set",
  title: `Window of ${what(line.tenantId, line.flowName)}`,
  text: "The next window starts at this time.",
  fields: [{ name: "at", label: "Time in UTC", type: "datetime-local", step: 1, required: true, defaultValue: start?.slice(0, 19) ?? "" }],
  button: "Set",
  body: ({ at }) => ({ tenant: line.tenantId, flow: line.flowName, windowEndUtc: utcOf(at), seen: { windowEndUtc: memory.windowEndUtc } }),
});

export const resetWindow = (line, memory) => ({
  action: "window-set",
  title: `Reset the window of ${what(line.tenantId, line.flowName)}`,
  text: "The next window has no start, as if no run had succeeded.",
  button: "Reset",
  body: () => ({ tenant: line.tenantId, flow: line.flowName, windowEndUtc: null, seen: { windowEndUtc: memory.windowEndUtc } }),
});

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
 * `{action, title, text, fields, count, body, button}`: `body(values)` is what is sent; `fields` are `{name, label, …}` of
 * inputs; the user types `count` back if there is one. A second click sends the same action id, which the app does once.
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
      setError(`Type ${grouped(count)} to confirm. You typed ${plain(values.count) || "nothing"}.`);
      return;
    }
    if (needsName) typedName.set(values.who.trim());
    isSending.current = true;
    setBusy(true);
    setError(null);
    try {
      const body = { ...action.body(values), actionId: action.actionId, ...(needsName && { who: values.who.trim() }) };
      const answer = await post(action.action, body);
      news.set(answer.message ?? `Done: ${action.title}`);
      asked.set(null);
      refreshAll();
    } catch (failure) {
      isSending.current = false;
      setBusy(false);
      setError(failure.status === 409 ? `${failure.message} Close this, look at the new values, and try again.` : failure.message);
      if (failure.status === 409) refreshAll();
    }
  };

  return html`<dialog ref=${dialog} aria-labelledby="asked" onClose=${() => asked.set(null)}>
    <form onSubmit=${send} novalidate=${false}>
      <h2 id="asked"><${Text}>${action.title}<//></h2>
      ${action.text && html`<p><${Text}>${action.text}<//></p>`}
      ${fields.map(
        ({ name, label, hint, options, ...rest }) => html`<label>
          <span>${label}</span>
          ${options
            ? html`<select name=${name} ...${rest}>${options.map(([value, said]) => html`<option value=${value}>${said}</option>`)}</select>`
            : html`<input name=${name} autocomplete="off" ...${rest} />`}
          ${hint && html`<small class="quiet">${hint}</small>`}
        </label>`,
      )}
      ${count !== undefined &&
      html`<label><span>Type <strong>${grouped(count)}</strong> to confirm</span><input name="count" inputmode="numeric" autocomplete="off" required /></label>`}
      ${needsName &&
      html`<label><span>Your name, for the audit</span><input name="who" autocomplete="name" required maxlength="100" defaultValue=${typedName.get()} /></label>`}
      ${error && html`<p class="note bad" role="alert"><${Text}>${error}<//></p>`}
      <div class="buttons">
        <button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
        <button type="submit" class="primary" aria-disabled=${isBusy}>${isBusy ? "Working…" : action.button}</button>
      </div>
    </form>
  </dialog>`;
}

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
  body: ({ at }) => ({ tenant: line.tenantId, flow: line.flowName, at: at ? `${at.length === 16 ? `${at}:00` : at}Z` : null, seen: seen(line) }),
});

/** What the operator has seen of an entry: an action on all entries of a tenant has no such condition. */
const seen = (line) => (line.flowName ? { enabled: line.enabled, nextRunUtc: line.nextRunUtc ?? null } : undefined);

/** `since` is the earliest start of the runs that the incident counts. */
export const retry = (incident, since) => ({
  action: "retry",
  title: `Run ${counted(incident.dead, "dead run")} again`,
  text: "Each run is sent to the queue once. Runs whose cause still exists die again.",
  fields: [
    {
      name: "spread",
      label: "Spread over",
      options: [["600", "10 minutes"], ["3600", "1 hour"], ["14400", "4 hours"], ["0", "no time: all at once"]],
    },
  ],
  count: incident.dead,
  button: `Run ${grouped(incident.dead)} again`,
  body: ({ spread }) => ({ fingerprint: incident.fingerprint, since, count: incident.dead, spreadSeconds: Number(spread) }),
});

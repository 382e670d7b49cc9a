// Fleet: all flows of all tenants. Only the rows on the screen are in the document, so that 20,000 scroll at once.
// The roles are written out, since a table that is laid out for a phone loses those of its elements.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./preact.js";
import { useSource } from "./api.js";
import { csv, fleet, HEALTHS, linesThatAre, ORDERS, outcomesOf, parseFilter } from "./fleet.js";
import { Ago, Badge, link, Loaded, Outcomes, Sign, Text, Title } from "./parts.js";
import { counted, grouped, plain, words } from "./text.js";

const HEIGHT = { wide: 34, narrow: 62 };
const BEYOND = 12; // rows above and below the screen
const NARROW = matchMedia("(max-width: 720px)");

export function Fleet({ query }) {
  const all = useSource(fleet);
  const [filter, setFilter] = useState(query.get("q") ?? "");
  const asked = query.get("q") ?? "";
  useEffect(() => setFilter(asked), [asked]);
  const change = (text) => {
    setFilter(text);
    history.replaceState(null, "", link.fleet(text));
  };
  return html`
    <${Title} title="Fleet">Fleet<//>
    <${Loaded} from=${all} what="the fleet"><${Lines} lines=${all.data?.lines} filter=${filter} change=${change} /><//>
  `;
}

const COLUMNS = [
  ["health", "State"],
  ["tenant", "Tenant"],
  ["flow", "Flow"],
  [null, "Last runs"],
  ["success", "Last success"],
  ["next", "Next run"],
  ["failures", "Failures"],
];

function Lines({ lines, filter, change }) {
  const [order, setOrder] = useState({ by: "health", isDown: false });
  const { matches, error } = useMemo(() => parseFilter(filter), [filter]);
  const shown = useMemo(() => {
    const found = lines.filter(matches).sort(ORDERS[order.by]);
    return order.isDown ? found.reverse() : found;
  }, [lines, matches, order]);
  const tenants = useMemo(() => new Set(shown.map((each) => each.tenantId)).size, [shown]);
  const input = useRef();
  const list = useRef();

  // A layout effect: rows that are on the screen answer to the keyboard.
  useLayoutEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      const isTyping = event.target.closest("input, select, textarea, [contenteditable]");
      if (event.key === "/" && !isTyping) {
        event.preventDefault();
        input.current.focus();
        input.current.select();
      } else if (event.key === "Escape" && event.target === input.current) input.current.blur();
      else if ((event.key === "j" || event.key === "k") && !isTyping) list.current.move(event.key === "j" ? 1 : -1);
      else if (event.key === "Enter" && event.target === input.current) list.current.move(0);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);

  return html`
    <div class="tools">
      <label class="filter">
        <span class="hidden">Filter</span>
        <input ref=${input} type="search" value=${filter} onInput=${(event) => change(event.target.value)} spellcheck=${false} autocomplete="off"
          placeholder="is:failing flow:weather tenant:ac*" aria-describedby="filter-help" aria-keyshortcuts="/" />
      </label>
      <button type="button" onClick=${() => save(shown)}>Save as CSV</button>
    </div>
    <${Healths} lines=${lines} filter=${filter} change=${change} />
    ${error && html`<p class="note warn" role="alert"><${Sign} name="problem" /> <${Text}>${error}<//></p>`}
    <p class="numbers" role="status">${filter.trim() ? `${grouped(shown.length)} of ${counted(lines.length, "flow")}` : counted(lines.length, "flow")}, ${counted(tenants, "tenant")}</p>
    <${Rows} lines=${shown} order=${order} setOrder=${setOrder} handle=${list} />
    <details class="help" id="filter-help">
      <summary>Filters and keys</summary>
      <ul>
        <li><code>is:failing</code>, <code>is:late</code>, <code>is:problem</code>, <code>is:wrong</code> (any of these), <code>is:unusual</code>, <code>is:running</code>, <code>is:deferred</code>, <code>is:enabled</code>, <code>is:disabled</code>, <code>is:new</code>, <code>is:well</code></li>
        <li><code>tenant:acme</code> is part of the name, <code>tenant:ac*</code> and <code>tenant:"acme"</code> are all of it; likewise <code>flow:</code> and <code>outcome:</code></li>
        <li>Other words are looked for in the tenant, the flow, the outcome and the problem. <code>-</code> before a part turns it around. All parts must match</li>
        <li><kbd>/</kbd> filter, <kbd>j</kbd> and <kbd>k</kbd> next and previous flow, <kbd>Enter</kbd> open, <kbd>Esc</kbd> leave the filter</li>
      </ul>
    </details>
  `;
}

/** The states, with the numbers of flows that their filters find: a flow that is failing and late counts in both. */
function Healths({ lines, filter, change }) {
  const numbers = useMemo(() => Object.fromEntries(HEALTHS.map((name) => [name, linesThatAre(name, lines).length])), [lines]);
  const names = HEALTHS.filter((each) => numbers[each]);
  return html`<div class="healths" role="group" aria-label="States">
    ${names.map((name) => {
      const own = `is:${name}`;
      const isOn = filter.trim() === own;
      return html`<button type="button" key=${name} aria-pressed=${isOn} onClick=${() => change(isOn ? "" : own)}>
        <${Badge} name=${name} label=${html`${words(name)} <b>${grouped(numbers[name])}</b>`} />
      </button>`;
    })}
  </div>`;
}

function Rows({ lines, order, setOrder, handle }) {
  const box = useRef();
  const [top, setTop] = useState(0);
  const [room, setRoom] = useState(600);
  const [height, setHeight] = useState(NARROW.matches ? HEIGHT.narrow : HEIGHT.wide);
  const active = useRef(null);
  const [wanted, setWanted] = useState(null);

  useLayoutEffect(() => {
    const measure = new ResizeObserver(() => setRoom(box.current?.clientHeight ?? 600));
    measure.observe(box.current);
    const narrow = () => setHeight(NARROW.matches ? HEIGHT.narrow : HEIGHT.wide);
    NARROW.addEventListener("change", narrow);
    return () => (measure.disconnect(), NARROW.removeEventListener("change", narrow));
  }, []);

  handle.current = {
    /** Move the focus by a number of rows. */
    move(step) {
      if (!lines.length) return;
      const present = lines.findIndex((each) => each.id === active.current);
      const first = Math.ceil(box.current.scrollTop / height);
      const next = present < 0 ? first : Math.min(lines.length - 1, Math.max(0, present + step));
      active.current = lines[next].id;
      const head = box.current.querySelector("thead").offsetHeight;
      const [above, below] = [next * height, (next + 1) * height - (box.current.clientHeight - head)];
      if (box.current.scrollTop > above) box.current.scrollTop = above;
      else if (box.current.scrollTop < below) box.current.scrollTop = below;
      setTop(box.current.scrollTop);
      setWanted({ index: next });
    },
  };
  const isMoving = useRef(false);
  useLayoutEffect(() => {
    isMoving.current = true; // the next key may have been pressed already
    if (wanted) box.current.querySelector(`tr[aria-rowindex="${wanted.index + 2}"] a`)?.focus({ preventScroll: true });
    isMoving.current = false;
  }, [wanted]);

  // The list may have become shorter than the place to which it was scrolled.
  const last = Math.min(lines.length, Math.ceil((top + room) / height) + BEYOND);
  const first = Math.max(0, Math.min(Math.floor(top / height), lines.length - Math.ceil(room / height)) - BEYOND);
  const noted = (event) => {
    const row = event.target.closest("tr[data-id]");
    if (row && !isMoving.current) active.current = row.dataset.id;
  };
  return html`<div class="rows" ref=${box} onScroll=${(event) => setTop(event.target.scrollTop)} onFocusIn=${noted} tabindex="0" role="region" aria-label="Flows">
    <table class="fleet" role="table" aria-label="Flows" aria-rowcount=${lines.length + 1}>
      <thead role="rowgroup">
        <tr role="row" aria-rowindex="1">
          ${COLUMNS.map(([name, label]) => html`<${Head} key=${label} name=${name} label=${label} order=${order} setOrder=${setOrder} />`)}
        </tr>
      </thead>
      <tbody role="rowgroup">
        <tr key="above" class="gap" aria-hidden="true" style=${{ height: `${first * height}px` }}></tr>
        ${lines.slice(first, last).map((line, index) => html`<${Row} key=${line.id} line=${line} index=${first + index} />`)}
        <tr key="below" class="gap" aria-hidden="true" style=${{ height: `${(lines.length - last) * height}px` }}></tr>
      </tbody>
    </table>
    ${!lines.length && html`<p class="empty">No flow matches the filter.</p>`}
  </div>`;
}

function Head({ name, label, order, setOrder }) {
  const isOwn = name && order.by === name;
  if (!name) return html`<th scope="col" role="columnheader" class="c-${label.split(" ")[0].toLowerCase()}">${label}</th>`;
  return html`<th scope="col" role="columnheader" class="c-${name}" aria-sort=${isOwn ? (order.isDown ? "descending" : "ascending") : undefined}>
    <button type="button" onClick=${() => setOrder({ by: name, isDown: isOwn && !order.isDown })}>${label}<span aria-hidden="true">${isOwn ? (order.isDown ? " ▾" : " ▴") : ""}</span></button>
  </th>`;
}

function Row({ line, index }) {
  return html`<tr role="row" aria-rowindex=${index + 2} data-id=${line.id}>
    <td role="cell" class="c-health"><${Badge} name=${line.health} /></td>
    <td role="cell" class="c-tenant"><a href=${link.tenant(line.tenantId, line.flowName)}><${Text}>${line.tenantId}<//></a></td>
    <td role="cell" class="c-flow" title=${line.problem ? plain(line.problem) : undefined}>${line.flowName ? html`<${Text}>${line.flowName}<//>` : html`<span class="quiet">document</span>`}</td>
    <td role="cell" class="c-last"><${Outcomes} names=${outcomesOf(line)} /></td>
    <td role="cell" class="c-success"><${Ago} at=${line.lastSuccessUtc} none="never" zone=${line.timezone} /></td>
    <td role="cell" class="c-next">${line.enabled ? html`<${Ago} at=${line.nextRunUtc} zone=${line.timezone} />` : html`<span class="quiet">–</span>`}</td>
    <td role="cell" class="c-failures">${line.consecutiveFailures || ""}</td>
  </tr>`;
}

function save(lines) {
  const url = URL.createObjectURL(new Blob(["\ufeff", csv(lines)], { type: "text/csv" }));
  const anchor = document.createElement("a");
  anchor.href = url;
  anchor.download = `flows-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}Z.csv`;
  anchor.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

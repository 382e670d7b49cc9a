// Tenant: its entries, and what has happened to them.

import { html, useEffect, useMemo, useRef, useState } from "./preact.js";
import {
  Act, enqueue, nextRun, openGate, pause, purge, resetCursor, resetWindow, resume, retry, setCursor, setWindow, useCanOperate,
} from "./actions.js";
import { useData, useSource } from "./api.js";
import { fleet, outcomesOf } from "./fleet.js";
import { Badge, link, Loaded, Outcomes, Sign, Text, Time, Title } from "./parts.js";
import { counted, durationText, grouped, plain, secondsBetween, timeText, timeTitle, words } from "./text.js";
import { Document, draftOf } from "./view_document.js";

export function Tenant({ words: [tenant], query }) {
  const own = useData("tenant", { tenant }, 30);
  const all = useSource(fleet);
  const [draft, edit] = useState(null);
  const lines = useMemo(() => (all.data?.lines ?? []).filter((each) => each.tenantId === tenant), [all.data, tenant]);
  return html`
    <p class="crumbs"><a href=${link.fleet()}>Fleet</a></p>
    <${Title} title=${tenant}><${Text}>${tenant}<//><//>
    <${Loaded} from=${own} what="the tenant">
      <${Facts} own=${own.data} />
      <${Entries} tenant=${tenant} own=${own.data} lines=${lines} opened=${query.get("flow")} edit=${() => edit(draft ?? draftOf(own.data))} />
    <//>
    <${Timeline} tenant=${tenant} zone=${own.data?.zone} />
    ${own.data && html`<${Document} own=${own.data} draft=${draft} edit=${edit} />`}
  `;
}

function Facts({ own }) {
  const { document, zone } = own;
  return html`<p class="quiet lead">
    ${typeof document?.name === "string" && html`<${Text}>${document.name}<//> · `}${zone ? html`time zone <${Text}>${zone}<//>` : "no time zone"}
  </p>`;
}

function Entries({ tenant, own, lines, opened, edit }) {
  const stray = lines.filter((each) => !own.entries.some((entry) => entry.flowName === each.flowName));
  return html`
    ${own.problems.map((each) => html`<p class="note bad" key=${each}><${Sign} name="problem" /> <${Text}>${each}<//></p>`)}
    ${stray.filter((each) => !own.problems.includes(each.problem)).map((each) => html`<p class="note bad" key=${each.id}><${Sign} name="problem" /> <span>${each.flowName && html`<${Text}>${each.flowName}<//>: `}<${Text}>${each.problem}<//></span></p>`)}
    <section aria-labelledby="entries">
      <div class="head">
        <h2 id="entries">Flows</h2>
        <div class="do">
          ${own.entries.filter((each) => each.enabled).length > 1 && html`<${Act} ...${pause({ tenantId: tenant, etag: own.etag })}>Pause all…<//>`}
          ${own.document.flows?.some?.((each) => each?.pausedWithTenant) && html`<${Act} ...${resume({ tenantId: tenant, etag: own.etag })}>Resume all…<//>`}
        </div>
      </div>
      ${!own.entries.length && html`<p class="empty">The document has no flows.</p>`}
      ${own.entries.map((entry) => {
        const found = lines.find((each) => each.flowName === entry.flowName);
        const reason = own.document.flows?.[entry.index]?.pauseReason;
        return html`<${Entry} key=${entry.flowName} tenant=${tenant} entry=${entry} line=${found} reason=${reason} zone=${own.zone} isOpened=${opened === entry.flowName} edit=${edit} />`;
      })}
    </section>
  `;
}

function Entry({ tenant, entry, line, reason, zone, isOpened, edit }) {
  const card = useRef();
  const [isAsked, setAsked] = useState(false);
  const [isKeptShown, setKeptShown] = useState(false);
  useEffect(() => {
    if (isOpened) card.current.scrollIntoView({ block: "nearest" });
  }, [isOpened]);
  // The operator acts on what the page shows: the entry as it was read last.
  const seen = { tenantId: tenant, flowName: entry.flowName, enabled: entry.enabled, nextRunUtc: entry.nextRunUtc };
  const times = entry.nextTimes;
  const problems = entry.problems.length ? entry.problems : line?.problem ? [line.problem] : [];
  return html`<article class="entry" ref=${card} aria-label=${plain(entry.flowName)} data-opened=${isOpened}>
    <div class="head">
      <h3><${Text}>${entry.flowName}<//></h3>
      ${line && html`<${Badge} name=${line.health} />`}
      ${line && html`<${Outcomes} names=${outcomesOf(line)} />`}
      <div class="do">
        ${entry.enabled && html`<${Act} ...${enqueue(seen)}>Run now…<//>`}
        ${entry.enabled ? html`<${Act} ...${pause(seen)}>Pause…<//>` : html`<${Act} ...${resume(seen)}>Resume…<//>`}
        <${Act} ...${nextRun(seen)}>Next run…<//>
        <button type="button" aria-expanded=${isAsked} onClick=${() => setAsked(!isAsked)}>Why?</button>
        <button type="button" aria-expanded=${isKeptShown} onClick=${() => setKeptShown(!isKeptShown)}>Cursor and window</button>
      </div>
    </div>
    ${problems.map((each) => html`<p class="note bad" key=${each}><${Sign} name="problem" /> <${Text}>${each}<//></p>`)}
    ${!entry.enabled && html`<p class="note mute"><${Sign} name="disabled" /> <span>Paused${reason ? html`: <${Text}>${reason}<//>` : ""}</span></p>`}
    ${line?.unusual?.map((each) => html`<p class="note warn" key=${each.text}><${Sign} name="unusual" /> <span>Unusual: <${Text}>${each.text}<//>, since <${Time} at=${each.sinceUtc} zone=${zone} /></span></p>`)}
    ${isAsked && html`<${Why} seen=${seen} edit=${edit} />`}
    ${isKeptShown && html`<${Kept} seen=${seen} zone=${zone} />`}
    <dl class="facts">
      <div><dt>Cron</dt><dd><code><${Text}>${entry.cron}<//></code> <span class="quiet"><${Text}>${entry.timezone}<//></span></dd></div>
      <div><dt>Next run</dt><dd><${Time} at=${entry.nextRunUtc} zone=${zone} none="at the next tick" /></dd></div>
      <div><dt>Last success</dt><dd><${Time} at=${line?.lastSuccessUtc} zone=${zone} none="never" /></dd></div>
      <div><dt>Last run</dt><dd><${Time} at=${line?.lastRunUtc} zone=${zone} none="never" />${line?.lastOutcome && html` <${Badge} name=${line.lastOutcome} />`}</dd></div>
      ${line?.lateSinceUtc && html`<div><dt>Late since</dt><dd><${Time} at=${line.lateSinceUtc} zone=${zone} /></dd></div>`}
      ${line?.consecutiveFailures > 0 && html`<div><dt>Failures in a row</dt><dd>${grouped(line.consecutiveFailures)}</dd></div>`}
      ${times.length > 0 &&
      html`<div class="times"><dt>Next times${zone ? `, ${plain(zone)}` : ""}</dt><dd><ol>${times.map((each) => html`<li key=${each.utc}><time dateTime=${each.utc} title=${timeTitle(each.utc, zone)}>${timeText(each.utc, "tenant", zone)}</time></li>`)}</ol></dd></div>`}
    </dl>
  </article>`;
}

function Why({ seen, edit }) {
  const asked = useData("why", { tenant: seen.tenantId, flow: seen.flowName }, 30);
  // A screen reader says the cause. The rest is there to be read.
  return html`<div class="why">
    <p class="hidden" role="status">${asked.data ? `Why: ${words(asked.data.answer.cause)}` : ""}</p>
    <${Loaded} from=${asked} what="why"><${Answer} why=${asked.data} seen=${seen} edit=${edit} /><//>
  </div>`;
}

const Finding = ({ finding }) => html`<span class="cause">${words(finding.cause)}:</span> <${Text}>${finding.why}<//>`;

function Answer({ why, seen, edit }) {
  return html`
    <p class="answer"><${Finding} finding=${why.answer} /></p>
    ${why.also.length > 0 && html`<ul>${why.also.map((each) => html`<li key=${each.cause}>Also: <${Finding} finding=${each} /></li>`)}</ul>`}
    <${Next} finding=${why.answer} seen=${seen} edit=${edit} />
    <details><summary>Ruled out: ${why.ruledOut.length}</summary><ul>${why.ruledOut.map((each) => html`<li key=${each.cause}><${Finding} finding=${each} /></li>`)}</ul></details>
  `;
}

/** The next step: links, the buttons for a user who may press them, and the sentence or the command of the app. */
function Next({ finding, seen, edit }) {
  const canOperate = useCanOperate();
  const steps = [
    finding.runId && html`<a href=${link.run(seen.tenantId, finding.runId)}>Run <${Text}>${finding.runId}<//></a>`,
    finding.cause === "no_tick" && html`<a href=${link.now()}>The last tick</a>`,
    finding.inFlowFile && html`<a href=${link.files()}>The flow files</a>`,
    canOperate && STEPS[finding.cause]?.(finding, seen, edit),
  ].filter(Boolean);
  if (!steps.length && !finding.next) return null;
  return html`<div class="do next"><span>Next:</span> ${steps} ${finding.next && html`<code><${Text}>${finding.next}<//></code>`}</div>`;
}

const Edit = ({ edit }) => html`<button type="button" onClick=${edit}>Edit the document…</button>`;
const RunNow = ({ seen }) => seen.enabled && html`<${Act} ...${enqueue(seen)}>Run it now…<//>`;

/** The buttons for a cause: a function of the finding, of what the operator has seen, and of how the document is edited. */
const STEPS = {
  problem: ({ inFlowFile }, __, edit) => !inFlowFile && html`<${Edit} edit=${edit} />`,
  no_entry: (_, __, edit) => html`<${Edit} edit=${edit} />`,
  disabled: (_, seen) => html`<${Act} ...${resume(seen)}>Resume it…<//>`,
  closed: ({ gate }) => gate && html`<${Act} ...${openGate(gate)}>Open <${Text}>${gate.provider}<//>…<//>`,
  failing: (_, seen) => html`<${RunNow} seen=${seen} /> <${Dead} seen=${seen} />`,
  late: (_, seen) => html`<${RunNow} seen=${seen} />`,
  due: (_, seen) => html`<${RunNow} seen=${seen} />`,
  not_due: (_, seen) => html`<${RunNow} seen=${seen} />`,
};

function Dead({ seen }) {
  const filter = { tenant: seen.tenantId, flow: seen.flowName };
  const count = useData("dead", filter, 30).data?.count;
  if (!count) return null;
  return html`
    <${Act} ...${retry(filter, count)}>Run ${counted(count, "dead run")} again…<//>
    <${Act} ...${purge(filter, count)}>Purge…<//>
  `;
}

/** What a flow keeps from run to run. */
function Kept({ seen, zone }) {
  const kept = useData("memory", { tenant: seen.tenantId, flow: seen.flowName }, 30);
  return html`<div class="why"><${Loaded} from=${kept} what="the cursor and the window"><${Memory} seen=${seen} zone=${zone} memory=${kept.data} /><//></div>`;
}

function Memory({ seen, zone, memory }) {
  const hasCursor = memory.cursorJson !== "null";
  return html`
    ${memory.running !== null && html`<p class="note warn"><${Sign} name="running" /> <span>Run <${Text}>${memory.running}<//> is going on. Nothing can be changed until it ends.</span></p>`}
    <dl class="facts">
      <div class="wide"><dt>Cursor</dt><dd>
        ${hasCursor ? html`<pre tabindex="0" role="region" aria-label="Cursor"><${Text}>${memory.cursorJson}<//></pre>` : html`<span class="quiet">none</span>`}
        <div class="do"><${Act} ...${setCursor(seen, memory)}>Set the cursor…<//>${hasCursor && html`<${Act} ...${resetCursor(seen, memory)}>Reset the cursor…<//>`}</div>
      </dd></div>
      <div class="wide"><dt>The next window starts at</dt><dd>
        <${Time} at=${memory.windowEndUtc} zone=${zone} none="no time: no run has succeeded" />
        <div class="do"><${Act} ...${setWindow(seen, memory)}>Set the window…<//>${memory.windowEndUtc && html`<${Act} ...${resetWindow(seen, memory)}>Reset the window…<//>`}</div>
      </dd></div>
    </dl>
  `;
}

const KINDS = [["all", "All"], ["failed", "Failed runs"], ["changes", "Changes"]];

function Timeline({ tenant, zone }) {
  const runs = useData("runs", { tenant, limit: 100 }, 20);
  const audit = useData("audit", { tenant, limit: 50 }, 30);
  const [kind, setKind] = useState("all");
  const events = useMemo(() => {
    const found = [
      ...(runs.data?.runs ?? []).map((run) => ({ at: run.startedUtc, key: `run ${run.runId}`, run })),
      ...(audit.data?.actions ?? []).map((change) => ({ at: change.atUtc, key: `change ${change.actionId}`, change })),
    ];
    return found.sort((a, b) => (a.at < b.at ? 1 : -1));
  }, [runs.data, audit.data]);
  const isShown = (each) => kind === "all" || (kind === "changes" ? each.change : each.run?.error);
  return html`<section aria-labelledby="timeline">
    <div class="head">
      <h2 id="timeline">Timeline</h2>
      <div class="healths" role="group" aria-label="What the timeline shows">
        ${KINDS.map(([name, label]) => html`<button type="button" key=${name} aria-pressed=${kind === name} onClick=${() => setKind(name)}>${label}</button>`)}
      </div>
    </div>
    ${audit.error && audit.error.status !== 404 && html`<p class="note warn"><${Sign} name="problem" /> <span>The changes cannot be read: <${Text}>${audit.error.message}<//></span></p>`}
    <${Loaded} from=${runs} what="the runs">
      ${runs.data?.unreadable.map((each) => html`<p class="note warn" key=${each}><${Sign} name="problem" /> <${Text}>${each}<//></p>`)}
      <ol class="timeline">
        ${events.filter(isShown).map((each) => html`<li key=${each.key}>${each.run ? html`<${RunEvent} run=${each.run} zone=${zone} />` : html`<${Change} change=${each.change} zone=${zone} />`}</li>`)}
      </ol>
      ${!events.some(isShown) && html`<p class="empty">Nothing yet.</p>`}
      ${runs.data?.hasMore && html`<p class="quiet">Older runs are not shown.</p>`}
    <//>
  </section>`;
}

function RunEvent({ run, zone }) {
  const counts = Object.entries(run.counts).map(([name, number]) => `${plain(name)} ${grouped(number)}`).join(", ");
  return html`
    <span class="when"><${Time} at=${run.startedUtc} zone=${zone} /></span>
    <${Badge} name=${run.outcome ?? "running"} />
    <a href=${link.run(run.tenantId, run.runId)}><${Text}>${run.flowName}<//></a>
    <span class="quiet">${durationText(secondsBetween(run.startedUtc, run.finishedUtc))}${run.attempts > 1 ? `, ${run.attempts} attempts` : ""}</span>
    <span class="told">${run.error ? html`<${Text}>${run.error.message}<//>` : counts}</span>
  `;
}

function Change({ change, zone }) {
  return html`
    <span class="when"><${Time} at=${change.atUtc} zone=${zone} /></span>
    <span class="badge mute"><${Sign} name="change" />change</span>
    <span><${Text}>${words(change.action)}<//></span>
    <span class="quiet">by <${Text}>${change.who}<//></span>
    <span class="told"><${Text}>${change.message}<//>${change.arguments?.reason && html`: <${Text}>${change.arguments.reason}<//>`}</span>
  `;
}

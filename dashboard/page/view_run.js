// Run: its attempts, its error, and its numbers against the usual ones.

import { html, useMemo } from "./preact.js";
import { Act, enqueue, setWindow, useCanOperate } from "./actions.js";
import { useData, useSource } from "./api.js";
import { fleet } from "./fleet.js";
import { Badge, Copy, link, Loaded, Sign, Table, Text, Time, Title } from "./parts.js";
import { durationText, grouped, secondsBetween, words } from "./text.js";

export function Run({ words: [tenant, id] }) {
  const found = useData("run", { run: id, tenant }, 15);
  return html`
    <p class="crumbs"><a href=${link.fleet()}>Fleet</a> <span aria-hidden="true">›</span> <a href=${link.tenant(tenant)}><${Text}>${tenant}<//></a></p>
    <${Title} title=${`Run ${id}`}>Run <code><${Text}>${id}<//></code><//>
    <${Loaded} from=${found} what="the run"><${Detail} detail=${found.data} /><//>
  `;
}

function Detail({ detail }) {
  const { run, attempts, http, window } = detail;
  const all = useSource(fleet).data?.lines;
  const line = useMemo(() => all?.find((each) => each.tenantId === run.tenantId && each.flowName === run.flowName), [all, run]);
  const zone = line?.timezone;
  const start = window && (window.startUtc ?? window.start);
  return html`
    <p class="lead"><${Badge} name=${run.outcome ?? "running"} /> <a href=${link.tenant(run.tenantId, run.flowName)}><${Text}>${run.flowName}<//></a></p>
    ${run.error && html`<${ErrorBox} error=${run.error} />`}
    ${REFUSED.includes(run.error?.status) && html`<${Credentials} tenant=${run.tenantId} names=${Object.keys(attempts.at(-1)?.secrets ?? {})} />`}
    <dl class="facts">
      <div><dt>Trigger</dt><dd><${Text}>${words(run.trigger)}<//></dd></div>
      <div><dt>Scheduled</dt><dd><${Time} at=${run.scheduledUtc} zone=${zone} /></dd></div>
      <div><dt>Started</dt><dd><${Time} at=${run.startedUtc} zone=${zone} /></dd></div>
      <div><dt>Ended</dt><dd><${Time} at=${run.finishedUtc} zone=${zone} /></dd></div>
      <div><dt>Attempts</dt><dd>${grouped(run.attempts)}${detail.redrive > 0 && html` <span class="quiet">sent again ${grouped(detail.redrive)} times</span>`}</dd></div>
      ${detail.part > 1 && html`<div><dt>Part</dt><dd>${grouped(detail.part)}</dd></div>`}
      ${window && html`<div><dt>Window</dt><dd><${Time} at=${start} ago=${false} none="the start" zone=${zone} /> to <${Time} at=${window.endUtc ?? window.end} ago=${false} zone=${zone} /></dd></div>`}
      <div><dt>HTTP, last attempt</dt><dd>${Object.keys(http).length ? Object.entries(http).map(([name, number]) => `${words(name)} ${grouped(number)}`).join(", ") : html`<span class="quiet">no requests</span>`}</dd></div>
    </dl>
    <div class="do"><${Act} ...${enqueue(run)}>Run the flow now…<//></div>
    ${run.unusual?.map((each) => html`<p class="note warn" key=${each.text}><${Sign} name="unusual" /> <span>Unusual: <${Text}>${each.text}<//></span></p>`)}
    ${run.unusual?.length > 0 && start && html`<${ReadAgain} run=${run} start=${start} zone=${zone} />`}
    <${Counts} run=${run} line=${line} attempt=${attempts.at(-1)} />
    <section aria-labelledby="attempts">
      <h2 id="attempts">Attempts</h2>
      ${run.attempts > attempts.length && html`<p class="quiet">The last ${attempts.length} of ${grouped(run.attempts)}.</p>`}
      <ol class="attempts" start=${run.attempts - attempts.length + 1}>
        ${attempts.map((each, index) => html`<${Attempt} key=${each.startedUtc} attempt=${each} before=${attempts[index - 1]} zone=${zone} />`)}
      </ol>
    </section>
    <${Log} lines=${detail.log} leftOut=${detail.logLeftOut} />
    <${Cursors} detail=${detail} />
  `;
}

function ErrorBox({ error }) {
  return html`<div class="note bad error-box">
    <${Sign} name="failed" />
    <div>
      <p class="error"><${Text}>${error.message}<//></p>
      <p class="quiet"><${Text}>${[error.status && `HTTP ${error.status}`, error.host, error.class].filter(Boolean).join(" · ")}<//>${error.fingerprint && html` · fingerprint <code><${Text}>${error.fingerprint}<//></code> <${Copy} text=${error.fingerprint} label="the fingerprint" />`}</p>
      ${error.body && html`<details open><summary>The answer</summary><pre tabindex="0" role="region" aria-label="The answer of the server"><${Text}>${error.body}<//></pre></details>`}
    </div>
  </div>`;
}

const REFUSED = [401, 403];

/** What to do about credentials that a server has refused: `names` are those of the secrets within the tenant. */
function Credentials({ tenant, names }) {
  const commands = names.map((name) => {
    const full = name.startsWith("shared--") ? name : `tenants--${tenant}--${name}`;
    return `az keyvault secret set --vault-name <vault> --name ${full} --value <value>`;
  });
  return html`<div class="note warn"><${Sign} name="problem" /><div>
    <p>The server has refused the credentials. ${commands.length ? "Set a new value, and run the flow again:" : "The run has read no secret."}</p>
    ${commands.map((each) => html`<p key=${each}><code><${Text}>${each}<//></code></p>`)}
  </div></div>`;
}

/** How the window of a run is read a second time, and what has come after it. */
function ReadAgain({ run, start, zone }) {
  const kept = useData("memory", { tenant: run.tenantId, flow: run.flowName }, 30);
  if (!useCanOperate()) return null;
  return html`<section class="again" aria-labelledby="again">
    <h2 id="again">Read this window again</h2>
    <p class="quiet">When the source is right again: set the window back to the start of this run's window, and run the flow. That run reads from there up to its own time.</p>
    <${Loaded} from=${kept} what="the window">
      <p>The next window starts at <${Time} at=${kept.data?.windowEndUtc} zone=${zone} none="no time" />.</p>
      <div class="do">
        <${Act} ...${setWindow(run, kept.data, start)}>Set the window to <${Time} at=${start} ago=${false} zone=${zone} />…<//>
        <${Act} ...${enqueue(run)}>Run now…<//>
      </div>
    <//>
  </section>`;
}

/** The counts of a run, and its seconds, beside the means of the last successful runs of the flow. */
function Counts({ run, line, attempt }) {
  const usual = { ...line?.usualCounts };
  const names = [...new Set([...Object.keys(run.counts), ...Object.keys(usual)])];
  const isKnown = line?.usualSeconds != null;
  if (!names.length && !isKnown) return null;
  const rows = [
    ...names.map((name) => [name, run.counts[name], usual[name], grouped]),
    ["time of the last attempt", attempt && secondsBetween(attempt.startedUtc, attempt.finishedUtc), line?.usualSeconds, durationText],
  ];
  return html`<section aria-labelledby="counts">
    <h2 id="counts">Numbers${isKnown ? ", and the usual ones" : ""}</h2>
    <${Table} label="Numbers of the run" head=${isKnown ? ["Number", "This run", "Usual"] : ["Number", "This run"]} numbers=${["This run", "Usual"]}>
      ${rows.map(
        ([name, own, usually, text]) => html`<tr key=${name}>
          <th scope="row"><${Text}>${name}<//></th>
          <td class="number">${own == null ? "–" : text(own)}</td>
          ${isKnown && html`<td class="number">${usually == null ? "–" : text(usually)}</td>`}
        </tr>`,
      )}
    <//>
  </section>`;
}

function Attempt({ attempt, before, zone }) {
  const isSame = attempt.error && before?.error && JSON.stringify(attempt.error) === JSON.stringify(before.error);
  const secrets = Object.entries(attempt.secrets);
  return html`<li>
    <${Badge} name=${attempt.outcome} /> <span>after ${durationText(secondsBetween(attempt.startedUtc, attempt.finishedUtc))}, at <${Time} at=${attempt.startedUtc} zone=${zone} /></span>
    ${attempt.error && (isSame ? html`<p class="quiet">The same error.</p>` : html`<p class="error"><${Text}>${attempt.error.message}<//></p>`)}
    ${secrets.length > 0 &&
    html`<details><summary>Secrets: ${secrets.length}</summary><ul>${secrets.map(([name, at]) => html`<li key=${name}><code><${Text}>${name}<//></code> read <${Time} at=${at} zone=${zone} /></li>`)}</ul></details>`}
  </li>`;
}

function Log({ lines, leftOut }) {
  if (!lines.length) return null;
  return html`<section aria-labelledby="log">
    <h2 id="log">Log of the last attempt</h2>
    ${leftOut > 0 && html`<p class="quiet">${grouped(leftOut)} earlier ${leftOut === 1 ? "line is" : "lines are"} not kept.</p>`}
    <${Table} label="Log of the last attempt" head=${["Seconds", "Level", "Line"]} numbers=${["Seconds"]}>
      ${lines.map(
        (each, index) => html`<tr key=${index}>
          <td class="number">${each.seconds.toFixed(3)}</td>
          <td><${Text}>${each.level}<//></td>
          <td><${Text}>${each.text}<//></td>
        </tr>`,
      )}
    <//>
  </section>`;
}

function Cursors({ detail }) {
  if (detail.cursorBefore == null && detail.cursorAfter == null) return null;
  return html`<details class="document"><summary>Cursor</summary>
    <p>Before</p><pre tabindex="0" role="region" aria-label="Cursor before"><${Text}>${JSON.stringify(detail.cursorBefore, null, 2)}<//></pre>
    <p>After</p><pre tabindex="0" role="region" aria-label="Cursor after"><${Text}>${JSON.stringify(detail.cursorAfter, null, 2)}<//></pre>
  </details>`;
}

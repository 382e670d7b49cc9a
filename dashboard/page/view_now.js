// Now: whether anything is wrong, and the one action that fixes it.

import { html, useMemo } from "./preact.js";
import { Act, openGate, purge, retry } from "./actions.js";
import { useData, useSource } from "./api.js";
import { exactly, fleet, linesThatAre } from "./fleet.js";
import { Ago, Badge, link, Loaded, Sign, Table, Text, Time, Title } from "./parts.js";
import { store, useStore } from "./store.js";
import { counted, grouped, now } from "./text.js";

const SHOWN = 8;

export function Now() {
  const status = useData("status", {}, 15);
  const found = useData("incidents", {}, 30);
  const gates = useData("gates", {}, 30);
  const all = useSource(fleet);
  return html`
    <${Title} title="Now">Now<//>
    <${Loaded} from=${status} what="the status"><${Status} status=${status.data} /><//>
    <section aria-labelledby="incidents">
      <h2 id="incidents">Incidents</h2>
      <p class="quiet lead">One error of one host, in all tenants: failing now, or dead in the last 24 hours.</p>
      <${Loaded} from=${found} what="the incidents"><${Incidents} found=${found.data} /><//>
    </section>
    <${Loaded} from=${gates} what="the closed providers"><${Gates} gates=${gates.data} /><//>
    <${Loaded} from=${all} what="the fleet"><${Wrong} lines=${all.data?.lines} /><//>
  `;
}

function wrongTicks({ isMissing, failed }) {
  if (isMissing) return "ticks are missing";
  if (!failed) return "";
  return failed === 1 ? "the last one failed" : `the last ${failed} failed`;
}

function Status({ status }) {
  const { tick, queue, poison, flows } = status;
  return html`
    ${status.unavailable.map((each) => html`<p class="note bad" key=${each}><${Sign} name="failed" /> <${Text}>${each}<//></p>`)}
    <dl class="tiles">
      <${Tile} name="Last tick" tone=${tick && wrongTicks(tick) ? "bad" : ""} note=${tick && wrongTicks(tick)}>
        ${tick ? html`<${Ago} at=${tick.startedUtc} none="none yet" />` : "?"}
      <//>
      <${Tile} name="Failing" to=${link.fleet("is:failing")} tone=${flows?.failing ? "bad" : ""}>${flows ? grouped(flows.failing) : "?"}<//>
      <${Tile} name="Late" to=${link.fleet("is:late")} tone=${flows?.late ? "warn" : ""}>${flows ? grouped(flows.late) : "?"}<//>
      <${Tile} name="Problems" to=${link.fleet("is:problem")} tone=${flows?.problems ? "bad" : ""}>${flows ? grouped(flows.problems) : "?"}<//>
      ${flows?.unusual !== undefined && html`<${Tile} name="Unusual" to=${link.fleet("is:unusual")} tone=${flows.unusual ? "warn" : ""}>${grouped(flows.unusual)}<//>`}
      <${Tile} name="Running" to=${link.fleet("is:running")}>${flows ? grouped(flows.running) : "?"}<//>
      <${Tile} name="Queue" note="messages">${queue ? grouped(queue.length) : "?"}<//>
      <${Tile} name="Poison queue" tone=${poison?.length ? "bad" : ""}>${poison ? grouped(poison.length) : "?"}<//>
      <${Tile} name="Flows" to=${link.fleet()} note=${flows && `${counted(flows.tenants, "tenant")}, ${grouped(flows.disabled)} paused`}>
        ${flows ? grouped(flows.enabled) : "?"}
      <//>
    </dl>
    ${tick?.isMissing && html`<${Missing} />`}
  `;
}

const AZURE = "--name <app> --resource-group <group>";

const Missing = () => html`<div class="note bad" role="note"><${Sign} name="failed" /><div>
  <p>Two ticks in a row have not started. Nothing runs until one does. Check, in this order:</p>
  <ol>
    <li>On your machine: does <code>make start</code> run?</li>
    <li>On Azure: does the app run? <code>az functionapp show ${AZURE} --query state -o tsv</code></li>
    <li>Does it have the function orchestrator? <code>az functionapp function list ${AZURE} --query "[].name" -o tsv</code></li>
    <li>A restart starts the timer again: <code>az functionapp restart ${AZURE}</code></li>
  </ol>
</div></div>`;

function Tile({ name, to, tone = "", note, children }) {
  const value = tone ? html`<${Sign} name=${tone === "bad" ? "failed" : "late"} /> ${children}` : children;
  return html`<div class="tile ${tone}">
    <dt>${name}</dt>
    <dd>${to ? html`<a href=${to}>${value}</a>` : value}${note && html` <small class="quiet">${note}</small>`}</dd>
  </div>`;
}

function Incidents({ found }) {
  const most = Math.max(1, ...found.incidents.map((each) => each.tenants));
  if (!found.incidents.length) return html`<p class="empty"><${Sign} name="succeeded" /> No flow is failing, and no run has died in the last 24 hours.</p>`;
  return html`
    <ol class="incidents">
      ${found.incidents.map((each) => html`<${Incident} key=${each.fingerprint} incident=${each} most=${most} since=${found.sinceUtc} />`)}
    </ol>
    ${found.hasMore && html`<p class="note warn"><${Sign} name="problem" /> There are more dead runs than are read. The numbers of dead runs are too low.</p>`}
    ${found.unreadable.map((each) => html`<p class="note warn" key=${each}><${Sign} name="problem" /> <${Text}>${each}<//></p>`)}
  `;
}

/** Of incidents whose dead runs were sent again: `{number, at, seen}` by fingerprint. */
const sent = store({});

/** The numbers of an incident. Other ones show that runs have ended since. */
const numbersOf = ({ tenants, failing, dead, lastUtc }) => JSON.stringify([tenants, failing, dead, lastUtc]);

function Incident({ incident, most, since }) {
  const { error, fingerprint } = incident;
  const own = useStore(sent)[fingerprint];
  const isSent = own?.seen === numbersOf(incident);
  const noteSent = () => sent.set({ ...sent.get(), [fingerprint]: { number: incident.dead, at: new Date(now()).toISOString(), seen: numbersOf(incident) } });
  // `since` is the earliest start of the runs that the incident counts.
  const dead = [{ fingerprint, since }, incident.dead];
  const hasDead = incident.dead > 0 && fingerprint;
  const name = error ? [error.status, error.host].filter(Boolean).join(" ") || error.class : "Failing, and no record of a run is left";
  return html`<li class="incident">
    <div class="bar" style=${{ width: `${(100 * incident.tenants) / most}%` }}></div>
    <div class="what">
      <h3><${Text}>${name}<//>: ${counted(incident.tenants, "tenant")}<span class="since">, since <${Time} at=${incident.sinceUtc} none="an unknown time" /></span></h3>
      ${error && html`<p class="error"><${Text}>${error.message}<//></p>`}
      <p class="quiet">
        ${incident.failing ? html`${counted(incident.failing, "flow")} failing` : "no flow is failing now"}, ${counted(incident.dead, "dead run")}
        ${" · "}
        ${incident.flows.map(
          (each, index) => html`${index ? ", " : ""}<a key=${each} href=${link.fleet(`${incident.failing ? "is:failing " : ""}${exactly("flow", each)}`)}><${Text}>${each}<//></a>`,
        )}
      </p>
    </div>
    <div class="do">
      ${incident.exampleRunId && html`<a href=${link.run(incident.exampleTenantId, incident.exampleRunId)}>Last failed run</a>`}
      ${isSent && html`<span class="quiet">${grouped(own.number)} ${own.number === 1 ? "was" : "were"} sent at <${Time} at=${own.at} ago=${false} /></span>`}
      ${hasDead && !isSent && html`<${Act} ...${retry(...dead)} done=${noteSent}>${incident.dead === 1 ? "Run it again…" : `Run these ${grouped(incident.dead)} again…`}<//>`}
      ${hasDead && html`<${Act} ...${purge(...dead)}>Purge…<//>`}
    </div>
  </li>`;
}

/** The providers that have asked not to be called for a time. */
function Gates({ gates }) {
  if (!gates.length) return null;
  return html`<section aria-labelledby="gates">
    <h2 id="gates">Closed providers</h2>
    <${Table} label="Closed providers" head=${["Provider", "Tenant", "Since", "Until", "Action"]}>
      ${gates.map(
        (each) => html`<tr key=${JSON.stringify([each.provider, each.tenantId])}>
          <td><${Text}>${each.provider}<//></td>
          <td>${each.tenantId === null ? "all" : html`<a href=${link.tenant(each.tenantId)}><${Text}>${each.tenantId}<//></a>`}</td>
          <td><${Time} at=${each.sinceUtc} /></td>
          <td class="wide">${each.why === null ? html`<${Time} at=${each.untilUtc} />` : html`<${Text}>${each.why}<//>`}</td>
          <td><${Act} ...${openGate(each)}>Open…<//></td>
        </tr>`,
      )}
    <//>
  </section>`;
}

function Wrong({ lines }) {
  const problems = useMemo(() => linesThatAre("problem", lines), [lines]);
  const late = useMemo(() => linesThatAre("late", lines), [lines]);
  const unusual = useMemo(() => linesThatAre("unusual", lines), [lines]);
  return html`
    ${problems.length > 0 &&
    html`<section aria-labelledby="problems">
      <h2 id="problems">To correct</h2>
      <${Table} label="Problems" head=${["Tenant", "Flow", "Problem", "Found"]}>
        ${problems.slice(0, SHOWN).map(
          (each) => html`<tr key=${each.id}>
            <td><a href=${link.tenant(each.tenantId)}><${Text}>${each.tenantId}<//></a></td>
            <td>${each.flowName ? html`<${Text}>${each.flowName}<//>` : html`<span class="quiet">document</span>`}</td>
            <td class="wide"><${Text}>${each.problem}<//></td>
            <td><${Ago} at=${each.problemSinceUtc} zone=${each.timezone} /></td>
          </tr>`,
        )}
      <//>
      <${More} number=${problems.length} filter="is:problem" what="problems" />
    </section>`}
    ${late.length > 0 &&
    html`<section aria-labelledby="late">
      <h2 id="late">Late</h2>
      <${Table} label="Late flows" head=${["Tenant", "Flow", "Due since", "Last success", "State"]}>
        ${late.slice(0, SHOWN).map(
          (each) => html`<tr key=${each.id}>
            <td><a href=${link.tenant(each.tenantId, each.flowName)}><${Text}>${each.tenantId}<//></a></td>
            <td><${Text}>${each.flowName}<//></td>
            <td><${Time} at=${each.lateSinceUtc} zone=${each.timezone} /></td>
            <td><${Time} at=${each.lastSuccessUtc} none="never" zone=${each.timezone} /></td>
            <td><${Badge} name=${each.health} /></td>
          </tr>`,
        )}
      <//>
      <${More} number=${late.length} filter="is:late" what="late flows" />
    </section>`}
    ${unusual.length > 0 &&
    html`<section aria-labelledby="unusual">
      <h2 id="unusual">Unusual</h2>
      <${Table} label="Unusual flows" head=${["Tenant", "Flow", "Last successful run", "Since"]}>
        ${unusual.slice(0, SHOWN).map(
          (each) => html`<tr key=${each.id}>
            <td><a href=${link.tenant(each.tenantId, each.flowName)}><${Text}>${each.tenantId}<//></a></td>
            <td><${Text}>${each.flowName}<//></td>
            <td class="wide"><${Text}>${each.unusual.map(({ text }) => text).join(", ")}<//></td>
            <td><${Time} at=${each.unusual[0].sinceUtc} zone=${each.timezone} /></td>
          </tr>`,
        )}
      <//>
      <${More} number=${unusual.length} filter="is:unusual" what="unusual flows" />
    </section>`}
  `;
}

const More = ({ number, filter, what }) => number > SHOWN && html`<p><a href=${link.fleet(filter)}>All ${grouped(number)} ${what}</a></p>`;

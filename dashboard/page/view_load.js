// Next 24 h: how many jobs start when, by minute and provider.

import { html, useMemo, useState } from "./preact.js";
import { useData } from "./api.js";
import { exactly } from "./fleet.js";
import { link, Loaded, Table, Text, Time, Title } from "./parts.js";
import { useStore } from "./store.js";
import { counted, grouped, plain, timeText, zoneChoice } from "./text.js";

const WIDTH = 1440;
const HEIGHT = 120;
const BUSIEST = 8;

export function Load() {
  const found = useData("load", {}, 120);
  return html`
    <${Title} title="Next 24 h">Next 24 h<//>
    <p class="quiet lead">The jobs that the coming ticks put on the queue, by the minute in which they start, if nobody edits anything.</p>
    <${Loaded} from=${found} what="the load"><${Chart} load=${found.data} /><//>
  `;
}

const label = (provider) => provider ?? "no provider";

function Chart({ load }) {
  const [chosen, choose] = useState("");
  const names = load.providers.map((each) => JSON.stringify(each.provider));
  const providers = names.includes(chosen) ? [load.providers[names.indexOf(chosen)]] : load.providers;
  const minutes = useMemo(() => {
    const total = new Array(WIDTH).fill(0);
    for (const each of providers) each.minutes.forEach((number, index) => (total[index] += number));
    return total;
  }, [load, chosen]);
  const jobs = minutes.reduce((a, b) => a + b, 0);
  const most = Math.max(1, ...minutes);
  const at = (minute) => new Date(new Date(load.fromUtc).getTime() + minute * 60_000).toISOString();
  const busiest = minutes
    .map((number, minute) => ({ number, minute }))
    .filter((each) => each.number)
    .sort((a, b) => b.number - a.number || a.minute - b.minute)
    .slice(0, BUSIEST);
  if (!load.providers.length) return html`<p class="empty">Nothing is planned.</p>`;
  return html`
    <label class="tools"><span>Provider</span>
      <select value=${chosen} onChange=${(event) => choose(event.target.value)}>
        <option value="">all</option>
        ${load.providers.map((each, index) => html`<option key=${names[index]} value=${names[index]}>${plain(label(each.provider))}</option>`)}
      </select>
    </label>
    <figure class="chart">
      <figcaption>${counted(jobs, "job")}, at most ${grouped(most)} in one minute</figcaption>
      <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${`Jobs per minute: ${counted(jobs, "job")}, at most ${grouped(most)} in one minute. The tables below have the numbers.`}>
        ${Array.from({ length: 24 }, (_, hour) => html`<line key=${hour} class="grid" x1=${hour * 60} x2=${hour * 60} y1="0" y2=${HEIGHT} />`)}
        <path class="load" d=${minutes.map((number, minute) => (number ? `M${minute} ${HEIGHT}h2v${-Math.max(2, (HEIGHT * number) / most)}h-2z` : "")).join("")} />
      </svg>
      <${Axis} at=${at} />
    </figure>
    <div class="columns">
      <section aria-labelledby="busiest">
        <h2 id="busiest">Busiest minutes</h2>
        <${Table} label="Busiest minutes" head=${["Minute", "Jobs"]} numbers=${["Jobs"]}>
          ${busiest.map(({ number, minute }) => html`<tr key=${minute}><td><${Time} at=${at(minute)} /></td><td class="number">${grouped(number)}</td></tr>`)}
        <//>
      </section>
      <section aria-labelledby="providers">
        <h2 id="providers">Providers</h2>
        <${Table} label="Providers" head=${["Provider", "Flows", "Jobs", "Most in a minute"]} numbers=${["Jobs", "Most in a minute"]}>
          ${load.providers.map(
            (each, index) => html`<tr key=${names[index]}>
              <td>${each.provider === null ? html`<span class="quiet">no provider</span>` : html`<${Text}>${each.provider}<//>`}</td>
              <td>${each.flows.map((flow, position) => html`${position ? ", " : ""}<a key=${flow} href=${link.fleet(exactly("flow", flow))}><${Text}>${flow}<//></a>`)}</td>
              <td class="number">${grouped(each.jobs)}</td>
              <td class="number">${grouped(Math.max(...each.minutes))}</td>
            </tr>`,
          )}
        <//>
      </section>
    </div>
  `;
}

function Axis({ at }) {
  const choice = useStore(zoneChoice);
  return html`<div class="axis" aria-hidden="true">${[0, 6, 12, 18].map((hour) => html`<span key=${hour}>${timeText(at(hour * 60), choice)}</span>`)}</div>`;
}

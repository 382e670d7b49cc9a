// Flow files: the flows that can run, and the files that could not be loaded.

import { html } from "./preact.js";
import { useData } from "./api.js";
import { exactly } from "./fleet.js";
import { Badge, link, Loaded, Table, Text, Title } from "./parts.js";
import { counted, durationText, words } from "./text.js";

export function Files() {
  const found = useData("files", {}, 60);
  return html`
    <${Title} title="Flow files">Flow files<//>
    <${Loaded} from=${found} what="the flow files"><${Tables} files=${found.data} /><//>
  `;
}

function Tables({ files }) {
  return html`
    ${files.broken.length > 0 &&
    html`<section aria-labelledby="broken">
      <h2 id="broken">${counted(files.broken.length, "broken file")}</h2>
      <p class="quiet lead">The flows of a broken file do not run. All others do. Correct the file, and deploy again.</p>
      ${files.broken.map(
        (each) => html`<article class="entry" key=${each.module}>
          <div class="head"><h3><code><${Text}>${each.module}<//></code></h3><${Badge} name="broken" /></div>
          <p class="error"><${Text}>${each.cause}<//></p>
          <details><summary>Traceback</summary><pre tabindex="0" role="region" aria-label="Traceback"><${Text}>${each.traceback}<//></pre></details>
        </article>`,
      )}
    </section>`}
    <section aria-labelledby="flows">
      <h2 id="flows">${counted(files.flows.length, "flow")}</h2>
      <${Table} label="Flows" head=${["Flow", "Place", "Provider", "Time limit", "Overlap", "Secrets"]}>
        ${files.flows.map(
          (each) => html`<tr key=${each.name}>
            <td><a href=${link.fleet(exactly("flow", each.name))}><${Text}>${each.name}<//></a>${each.aliases.length > 0 && html` <span class="quiet">also <${Text}>${each.aliases.join(", ")}<//></span>`}</td>
            <td><code><${Text}>${each.module}<//>:${each.line}</code></td>
            <td>${each.provider === null ? html`<span class="quiet">–</span>` : html`<${Text}>${each.provider}<//>`}</td>
            <td>${durationText(each.timeoutSeconds)}</td>
            <td><${Text}>${words(each.overlap)}<//></td>
            <td>${each.secrets.length ? html`<${Text}>${each.secrets.join(", ")}<//>` : html`<span class="quiet">not declared</span>`}</td>
          </tr>`,
        )}
      <//>
    </section>
  `;
}

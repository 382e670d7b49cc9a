// Audit: what people have changed with the commands and this page.

import { html } from "./preact.js";
import { useData } from "./api.js";
import { Badge, link, Loaded, Sign, Table, Text, Time, Title } from "./parts.js";
import { words } from "./text.js";

const MOST_TENANTS = 2;

export function Audit() {
  const found = useData("audit", { limit: 200 }, 30);
  return html`
    <${Title} title="Audit">Audit<//>
    <p class="quiet lead">What people have changed with the commands and on this page.</p>
    <${Loaded} from=${found} what="the audit"><${Actions} found=${found.data} /><//>
  `;
}

function Actions({ found }) {
  if (!found.actions.length && !found.unreadable.length) return html`<p class="empty">Nothing was changed yet.</p>`;
  return html`
    ${found.unreadable.map((each) => html`<p class="note warn" key=${each}><${Sign} name="problem" /> <${Text}>${each}<//></p>`)}
    <${Table} label="Audit" head=${["Time", "Who", "Action", "Tenant", "Flow", "What was done", "Before and after"]}>
      ${found.actions.map(
        (each) => html`<tr key=${each.actionId}>
          <td><${Time} at=${each.atUtc} /></td>
          <td><${Text}>${each.who}<//> <span class="quiet"><${Text}>${each.via}<//></span></td>
          <td><${Text}>${words(each.action)}<//></td>
          <td><${Tenants} ids=${each.tenantId ? [each.tenantId] : each.tenantIds} /></td>
          <td>${each.flowName && html`<${Text}>${each.flowName}<//>`}</td>
          <td class="wide">${each.end !== "done" && html`<${Badge} name="interrupted" label=${each.end === null ? "not finished" : words(each.end)} /> `}<${Text}>${each.message}<//></td>
          <td><${Values} before=${each.before} after=${each.after} /></td>
        </tr>`,
      )}
    <//>
    ${found.hasMore && html`<p class="quiet">Older actions are not shown.</p>`}
  `;
}

/** Links to the first tenants, and the number of the others. */
function Tenants({ ids }) {
  const others = ids.length - MOST_TENANTS;
  const first = ids.slice(0, MOST_TENANTS);
  return [
    ...first.map((id, at) => html`${at ? ", " : ""}<a href=${link.tenant(id)}><${Text}>${id}<//></a>`),
    others > 0 && ` and ${others} more`,
  ];
}

const Values = ({ before, after }) =>
  (before != null || after != null) &&
  html`<details><summary>Show</summary><pre tabindex="0" role="region" aria-label="Before and after"><${Text}>${`${JSON.stringify(before, null, 1)}\n→\n${JSON.stringify(after, null, 1)}`}<//></pre></details>`;

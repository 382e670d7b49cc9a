// The document of a tenant: as it is stored, and as an operator edits it.

import { html, useEffect, useRef, useState } from "./preact.js";
import { ask, Problems, useCanOperate } from "./actions.js";
import { Sign, Text } from "./parts.js";
import { grouped, plain } from "./text.js";

const MOST_SHOWN = 20;

/** Return a draft of a document, for the version that the operator sees. */
export const draftOf = (own) => ({ text: written(own.document), document: own.document, etag: own.etag });

const written = (document) => JSON.stringify(document, null, 2);

/** `draft` is what the operator edits, if they do; `edit(draft)` changes it, and `edit(null)` ends it. */
export function Document({ own, draft, edit }) {
  const canOperate = useCanOperate();
  if (draft) return html`<${Editor} own=${own} draft=${draft} edit=${edit} />`;
  return html`<details class="document">
    <summary>Document</summary>
    ${canOperate && html`<div class="do"><button type="button" onClick=${() => edit(draftOf(own))}>Edit…</button></div>`}
    <pre tabindex="0" role="region" aria-label="Document"><${Text}>${written(own.document)}<//></pre>
  </details>`;
}

function Editor({ own, draft, edit }) {
  const input = useRef();
  const [wrong, setWrong] = useState(null);
  useEffect(() => {
    input.current.scrollIntoView({ block: "nearest" });
    input.current.focus({ preventScroll: true });
  }, []);
  const isBehind = own.etag !== draft.etag;
  const store = () => {
    let document;
    try {
      document = JSON.parse(draft.text);
    } catch (error) {
      setWrong({ message: `This is not JSON: ${error.message}` });
      return;
    }
    setWrong(null);
    ask({
      action: "tenant-put",
      title: `Store the document of ${own.tenantId}`,
      more: html`<${Changes} of=${changes(draft.document, document)} none="You have changed nothing." />`,
      button: "Store",
      body: () => ({ tenant: own.tenantId, etag: draft.etag, document: draft.text }),
      done: () => edit(null),
      failed: (error) => setWrong(error),
    });
  };
  return html`<section class="document" aria-labelledby="document">
    <h2 id="document">Document</h2>
    ${isBehind &&
    html`<div class="note warn" role="alert"><${Sign} name="problem" />
      <div>
        <p>The document was changed since you began, by a tick or by somebody else. Your text cannot be stored as it is.</p>
        <${Changes} of=${changes(draft.document, own.document)} none="Its content is the same." />
        <p>Make these changes in your text too, where you want to keep them.</p>
        <div class="do">
          <button type="button" onClick=${() => edit({ ...draftOf(own), text: draft.text })}>I have looked at them</button>
          <button type="button" onClick=${() => edit(draftOf(own))}>Begin again from the new document</button>
        </div>
      </div>
    </div>`}
    <label><span class="hidden">Document, as JSON</span>
      <textarea ref=${input} rows="24" spellcheck=${false} value=${draft.text} onInput=${(event) => edit({ ...draft, text: event.target.value })}></textarea>
    </label>
    ${wrong && html`<div class="note bad" role="alert"><${Sign} name="failed" /><div><${Text}>${wrong.message}<//><${Problems} problems=${wrong.problems} /></div></div>`}
    <div class="buttons">
      <button type="button" onClick=${() => edit(null)}>Discard</button>
      <button type="button" class="primary" disabled=${isBehind} onClick=${store}>Store…</button>
    </div>
  </section>`;
}

/** Return the values that differ between two JSON values, with their paths: `[{path, before, after}]`. */
export function changes(before, after, path = "") {
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  const isList = Array.isArray(before);
  if (!isObject(before) || !isObject(after) || isList !== Array.isArray(after)) return [{ path, before, after }];
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  const own = (from, name) => (Object.hasOwn(from, name) ? from[name] : undefined);
  return [...names].flatMap((name) =>
    changes(own(before, name), own(after, name), isList ? `${path}[${name}]` : path ? `${path}.${name}` : name),
  );
}

const isObject = (value) => typeof value === "object" && value !== null;

function Changes({ of, none }) {
  if (!of.length) return html`<p>${none}</p>`;
  const said = (value) => (value === undefined ? html`<i>nothing</i>` : html`<${Text}>${shortened(JSON.stringify(value))}<//>`);
  return html`<ul class="changes">
    ${of.slice(0, MOST_SHOWN).map((each) => html`<li key=${each.path}><code><${Text}>${each.path}<//></code>: ${said(each.before)} → ${said(each.after)}</li>`)}
    ${of.length > MOST_SHOWN && html`<li>and ${grouped(of.length - MOST_SHOWN)} more</li>`}
  </ul>`;
}

const shortened = (text) => (text.length > 200 ? `${plain(text).slice(0, 200)}…` : text);

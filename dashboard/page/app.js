// The page: its header, its views, and the keys that work in all of them.

import { html, render, useEffect, useErrorBoundary, useLayoutEffect, useRef, useState } from "./preact.js";
import { Asked } from "./actions.js";
import { followed, key, me, needed, refreshAll, signIn, useSource } from "./api.js";
import { news, Sign, Text } from "./parts.js";
import { useStore } from "./store.js";
import { agoText, durationText, plain, zoneChoice } from "./text.js";
import { Audit } from "./view_audit.js";
import { Files } from "./view_files.js";
import { Fleet } from "./view_fleet.js";
import { Load } from "./view_load.js";
import { Now } from "./view_now.js";
import { Run } from "./view_run.js";
import { Tenant } from "./view_tenant.js";

const VIEWS = [
  ["", "Now", Now],
  ["fleet", "Fleet", Fleet],
  ["load", "Next 24 h", Load],
  ["files", "Flow files", Files],
  ["audit", "Audit", Audit],
  ["tenant", null, Tenant],
  ["run", null, Run],
];

/** Return `{name, words, query}` of the address. */
function address() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decoded);
  return { name, words: rest, query: new URLSearchParams(query) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function App() {
  const [at, setAt] = useState(address);
  const main = useRef();
  const isFirst = useRef(true);
  const { data: own } = useSource(me);

  useLayoutEffect(() => {
    const moved = () => setAt(address());
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);

  const place = [at.name, ...at.words].join("/");
  useEffect(() => {
    if (isFirst.current) isFirst.current = false;
    else {
      main.current.querySelector("h1")?.focus({ preventScroll: true });
      scrollTo(0, 0);
    }
  }, [place]);

  const [, , View] = VIEWS.find(([name]) => name === at.name) ?? [];
  return html`
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>To the content</a>
    <header>
      <a class="brand" href="#/">DataSync</a>
      <nav aria-label="Views">
        ${VIEWS.filter(([, label]) => label).map(
          ([name, label]) => html`<a href="#/${name}" aria-current=${name === at.name ? "page" : undefined}>${label}</a>`,
        )}
      </nav>
      <${Zone} />
      ${own && html`<span class="user" title="Who you are to the app"><${Text}>${own.name || (own.mode === "key" ? "function key" : "")}<//>${own.canOperate ? "" : " (reader)"}</span>`}
    </header>
    <${Freshness} />
    <main id="main" ref=${main} tabindex="-1">
      <${Guarded} key=${place}>
        ${View ? html`<${View} words=${at.words} query=${at.query} />` : html`<h1 tabindex="-1">There is no such view</h1><p><a href="#/">Now</a></p>`}
      <//>
    </main>
    <${News} />
    <${Asked} />
    <${Key} />
  `;
}

/** A view that fails leaves the rest of the page as it is. */
function Guarded({ children }) {
  const [error, reset] = useErrorBoundary((failure) => console.error(failure));
  if (!error) return children;
  return html`<h1 tabindex="-1">This view has failed</h1>
    <p class="note bad"><${Text}>${error.message}<//> <button type="button" onClick=${reset}>Try again</button></p>`;
}

function Zone() {
  const choice = useStore(zoneChoice);
  return html`<label class="zone">
    <span>Times</span>
    <select value=${choice} onChange=${(event) => zoneChoice.set(event.target.value)}>
      <option value="utc">UTC</option>
      <option value="local">Local</option>
      <option value="tenant">Tenant's</option>
    </select>
  </label>`;
}

/** How old the data are, and whether the app answers. */
function Freshness() {
  const all = useStore(followed);
  const isOut = useStore(needed) === "sign in";
  const [, beat] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => beat((number) => number + 1), 1000);
    return () => clearInterval(timer);
  }, []);
  // A view without data has only this source.
  const states = (all.length > 1 ? all.filter((each) => each !== me) : all).map((each) => ({ ...each.state.get(), seconds: each.seconds }));
  const read = states.filter((each) => each.at);
  const oldest = read.reduce((a, b) => (b.at < a.at ? b : a), read[0]);
  const lost = states.find((each) => each.error && each.error.status !== 404 && each.error.status !== 401);
  const isOld = read.some((each) => Date.now() - each.at > each.seconds * 3000 + 10_000);
  const age = oldest ? durationText(Math.max(0, (Date.now() - oldest.at) / 1000)) : null;
  const said = isOut
    ? `Your sign-in is over.${age ? ` The data are ${age} old.` : ""}`
    : lost
    ? `${lost.error.status ? "The app has refused a request" : "The connection is lost"}: ${plain(lost.error.message)}.${age ? ` The data are ${age} old.` : ""} The page tries again by itself.`
    : isOld
      ? `The data are ${age} old.`
      : "";
  // The live region stays on the page, and its text has no number that changes each second.
  return html`
    <aside class="fresh" aria-label="Age of the data" data-state=${isOut || lost ? "lost" : isOld ? "old" : "fresh"}>
      ${said
        ? html`<p class="note ${isOut || lost ? "bad" : "warn"}"><${Sign} name=${isOut || lost ? "failed" : "late"} /> <span>${said}</span> ${isOut && html`<a href=${signIn()}>Sign in again</a>`} <button type="button" onClick=${() => refreshAll()}>Try now</button></p>`
        : html`<p class="quiet updated">${oldest ? `Updated ${agoText(oldest.at, Date.now())}` : "Reading…"}</p>`}
    </aside>
    <p class="hidden" role="status">${isOut ? "Your sign-in is over." : lost ? "The connection is lost. The data are old." : isOld ? "The data are old." : ""}</p>
  `;
}

function News() {
  const text = useStore(news);
  useEffect(() => {
    if (!text) return undefined;
    const timer = setTimeout(() => news.set(""), 15_000);
    return () => clearTimeout(timer);
  }, [text]);
  return html`<div class="news" role="status">${text && html`<p><${Sign} name="succeeded" /> <${Text}>${text}<//></p>`}</div>`;
}

/** Asks for the function key when the app refuses a request without it. */
function Key() {
  const isAsked = useStore(needed) === "key";
  const dialog = useRef();
  const wasSent = Boolean(key.get());
  useEffect(() => {
    if (isAsked) dialog.current.showModal();
  }, [isAsked]);
  if (!isAsked) return null;
  const send = (event) => {
    event.preventDefault();
    key.set(new FormData(event.target).get("key").trim());
    needed.set("");
    refreshAll();
  };
  return html`<dialog ref=${dialog} aria-labelledby="key-title" onCancel=${(event) => event.preventDefault()}>
    <form onSubmit=${send}>
      <h2 id="key-title">Function key</h2>
      <p>
        ${wasSent ? "The app has refused this key. " : ""}The data of this page are behind a key of the function app: in the portal, under
        App keys, or <code>az functionapp keys list</code>.
      </p>
      <label><span>Key</span><input name="key" type="password" autocomplete="off" spellcheck=${false} required autofocus /></label>
      <small class="quiet">It is kept until this tab is closed, and sent in a header only.</small>
      <div class="buttons"><button type="submit" class="primary">Open</button></div>
    </form>
  </dialog>`;
}

render(html`<${App} />`, document.getElementById("app"));

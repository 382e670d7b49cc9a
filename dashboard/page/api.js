// Requests to the app, and data that is read again and again.

import { useEffect, useMemo, useState } from "./preact.js";
import { kept, store } from "./store.js";
import { skew } from "./text.js";

const ROOT = new URL("../", import.meta.url); // …/api/ops/
const PATIENCE = { GET: 30, POST: 120 }; // seconds: an action can send thousands of messages
const PERHAPS_DONE = "It may have been done. The button repeats the same action, which is done once.";
/** How people are let in: "key" or "entra". */
const MODE = document.documentElement.dataset.mode;

/** The function key. It is kept for this tab only, and sent in a header only. */
export const key = kept(sessionStorage, "datasync.key", "");
/** What the user has to do before the app answers: type the "key", "sign in", or "" for nothing. */
export const needed = store("");

/** Return the address at which the platform signs people in, and that brings them back to this view. */
export const signIn = () => `/.auth/login/aad?post_login_redirect_uri=${encodeURIComponent(location.pathname + location.hash)}`;

/** A request that the app, or the network, did not answer as wished. `status` is 0 where there was no answer. */
export class Refused extends Error {
  constructor(message, status, problems = []) {
    super(message);
    this.status = status;
    this.problems = problems;
  }
}

/** Return an answer of the app. Throws Refused. */
export function get(path, parameters = {}) {
  const url = new URL(`data/${path}`, ROOT);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return answer(url, {});
}

/** Make the app do something. Throws Refused. */
export function post(action, body) {
  const headers = { "Content-Type": "application/json", "X-DataSync": "dashboard" };
  return answer(new URL(`actions/${action}`, ROOT), { method: "POST", headers, body: JSON.stringify(body) });
}

async function answer(url, { method = "GET", headers = {}, ...options }) {
  const sent = key.get() ? { ...headers, "x-functions-key": key.get() } : headers;
  const signal = AbortSignal.timeout(1000 * PATIENCE[method]);
  let response;
  let body;
  try {
    response = await fetch(url, { ...options, method, headers: sent, signal, cache: "no-store", redirect: "manual" });
    const text = await response.text();
    body = text ? parsed(text) : null;
  } catch (error) {
    const why = error.name === "TimeoutError" ? `the app has not answered in ${PATIENCE[method]} seconds` : "the app cannot be reached";
    throw new Refused(method === "POST" ? `${why}. ${PERHAPS_DONE}` : why, 0);
  }
  const isElsewhere = response.type === "opaqueredirect"; // to the sign-in: no route of the app leads elsewhere
  if (MODE === "entra" && (isElsewhere || response.status === 401)) {
    needed.set("sign in");
    throw new Refused("Your sign-in is over.", 401);
  }
  if (response.status === 401) needed.set("key");
  if (isElsewhere) throw new Refused("something between this page and the app has led the request elsewhere", 0);
  if (needed.get() === "sign in") needed.set("");
  // Whole seconds, which is enough to say how long ago something was.
  const time = Date.parse(response.headers.get("Date") ?? "");
  if (time) skew.set(time - Date.now());
  if (!response.ok) {
    throw new Refused(body?.error ?? body?.message ?? `the answer has status ${response.status}`, response.status, body?.problems);
  }
  if (body === undefined || body === null) throw new Refused("the answer is not JSON", response.status);
  return body;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The sources that a component on the page follows. */
export const followed = store([]);

/** Data of the app that is read again every `seconds` while a component follows it. */
export class Source {
  constructor(read, seconds) {
    this.state = store({ data: undefined, at: undefined, error: undefined });
    this.seconds = seconds;
    this.read = read;
    this.number = 0;
    this.isReading = false;
    this.timer = undefined;
  }

  follow(each) {
    const leave = this.state.follow(each);
    this.number += 1;
    if (this.number === 1) {
      followed.set([...followed.get(), this]);
      this.refresh();
    }
    return () => {
      leave();
      this.number -= 1;
      if (this.number === 0) {
        followed.set(followed.get().filter((other) => other !== this));
        clearTimeout(this.timer);
      }
    };
  }

  /** Read now; `isFresh`: not an answer that the app has kept. An answer that fails leaves the data as they are. */
  async refresh(isFresh = false) {
    clearTimeout(this.timer);
    this.isFresh ||= isFresh;
    if (this.isReading) {
      this.isAskedAgain = true;
      return;
    }
    this.isReading = true;
    this.isAskedAgain = false;
    const before = this.state.get();
    const wasFresh = this.isFresh;
    this.isFresh = false;
    try {
      this.state.set({ data: await this.read(before.data, wasFresh), at: Date.now(), error: undefined });
    } catch (error) {
      if (!(error instanceof Refused)) console.error(error);
      this.state.set({ ...before, error });
    }
    this.isReading = false;
    if (this.number) this.timer = setTimeout(() => this.wake(), this.isAskedAgain ? 0 : this.seconds * 1000);
  }

  /** Read again, unless nobody can see the page, or the app lets nobody in. */
  wake() {
    if (!document.hidden && !needed.get()) this.refresh();
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  const old = (each) => Date.now() - (each.state.get().at ?? 0) > each.seconds * 1000;
  for (const each of followed.get().filter(old)) each.refresh();
});

/** Read everything that is on the page again; `isFresh`: also what the app keeps for all readers. */
export function refreshAll({ isFresh = false } = {}) {
  for (const each of followed.get()) each.refresh(isFresh);
}

const KEPT_BY_THE_APP = ["status", "incidents"];

const sources = new Map();
const MOST_SOURCES = 40;

/** Return the source of a path: the same one each time, so that a view that is opened again shows its last data. */
export function source(path, parameters = {}, seconds = 30) {
  const name = JSON.stringify([path, parameters]);
  const found = sources.get(name) ?? new Source((_, isFresh) => get(path, isFresh && KEPT_BY_THE_APP.includes(path) ? { ...parameters, fresh: 1 } : parameters), seconds);
  sources.delete(name);
  sources.set(name, found);
  for (const [oldest, each] of sources) {
    if (sources.size <= MOST_SOURCES) break;
    if (!each.number) sources.delete(oldest);
  }
  return found;
}

/** Return `{data, at, error, refresh}` of a source, and follow it. */
export function useSource(from) {
  const [state, setState] = useState(from.state.get());
  useEffect(() => {
    setState(from.state.get());
    return from.follow(setState);
  }, [from]);
  // The first render after a change of the source must not show the data of the one before.
  const own = state === from.state.get() ? state : from.state.get();
  return { ...own, refresh: () => from.refresh() };
}

/** Return `{data, at, error, refresh}` of a path, and read it again every `seconds`. */
export function useData(path, parameters = {}, seconds = 30) {
  const name = JSON.stringify(parameters);
  return useSource(useMemo(() => source(path, parameters, seconds), [path, name, seconds]));
}

/** Who is signed in, and what they may do. */
export const me = source("me", {}, 300);

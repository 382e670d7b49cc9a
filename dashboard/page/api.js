// Requests to the app, and data that is read again and again.

import { useEffect, useMemo, useState } from "./preact.js";
import { kept, store } from "./store.js";

const ROOT = new URL("../", import.meta.url); // …/api/ops/
const TIMEOUT = 30_000;

/** The function key. It is kept for this tab only, and sent in a header only. */
export const key = kept(sessionStorage, "datasync.key", "");
/** Whether the app has refused a request because the key was missing or wrong. */
export const isRefused = store(false);

/** A request that the app, or the network, did not answer as wished. `status` is 0 where there was no answer. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
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

async function answer(url, { headers = {}, ...options }) {
  const sent = key.get() ? { ...headers, "x-functions-key": key.get() } : headers;
  const signal = AbortSignal.timeout(TIMEOUT);
  let response;
  let body;
  try {
    response = await fetch(url, { ...options, headers: sent, signal, cache: "no-store", redirect: "error" });
    const text = await response.text();
    body = text ? parsed(text) : null;
  } catch (error) {
    const why = error.name === "TimeoutError" ? "the app has not answered in 30 seconds" : "the app cannot be reached";
    throw new Refused(why, 0);
  }
  if (response.status === 401) isRefused.set(true);
  if (!response.ok) throw new Refused(body?.error ?? body?.message ?? `the answer has status ${response.status}`, response.status);
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

  /** Read now. An answer that fails leaves the data as they are. */
  async refresh() {
    clearTimeout(this.timer);
    if (this.isReading) {
      this.isAskedAgain = true;
      return;
    }
    this.isReading = true;
    this.isAskedAgain = false;
    const before = this.state.get();
    try {
      this.state.set({ data: await this.read(before.data), at: Date.now(), error: undefined });
    } catch (error) {
      if (!(error instanceof Refused)) console.error(error);
      this.state.set({ ...before, error });
    }
    this.isReading = false;
    if (this.number) this.timer = setTimeout(() => this.wake(), this.isAskedAgain ? 0 : this.seconds * 1000);
  }

  /** Read again, unless nobody can see the page, or the app asks for the key. */
  wake() {
    if (!document.hidden && !isRefused.get()) this.refresh();
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  const old = (each) => Date.now() - (each.state.get().at ?? 0) > each.seconds * 1000;
  for (const each of followed.get().filter(old)) each.refresh();
});

/** Read everything that is on the page again. */
export function refreshAll() {
  for (const each of followed.get()) each.refresh();
}

const sources = new Map();
const MOST_SOURCES = 40;

/** Return the source of a path: the same one each time, so that a view that is opened again shows its last data. */
export function source(path, parameters = {}, seconds = 30) {
  const name = JSON.stringify([path, parameters]);
  const found = sources.get(name) ?? new Source(() => get(path, parameters), seconds);
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

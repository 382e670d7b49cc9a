// Values that components follow.

import { useEffect, useState } from "./preact.js";

/** Return a value that can be followed. */
export function store(value) {
  const followers = new Set();
  return {
    get: () => value,
    set(next) {
      if (next === value) return;
      value = next;
      for (const each of [...followers]) each(value);
    },
    follow(each) {
      followers.add(each);
      return () => followers.delete(each);
    },
  };
}

/** Return the value of a store, and render the component again when it changes. */
export function useStore(from) {
  const [value, setValue] = useState(from.get);
  useEffect(() => {
    setValue(() => from.get());
    return from.follow((next) => setValue(() => next));
  }, [from]);
  return value;
}

/** Return a store that the browser keeps: for this tab (sessionStorage), or for all (localStorage). */
export function kept(storage, name, fallback) {
  const made = store(storage.getItem(name) ?? fallback);
  made.follow((value) => (value ? storage.setItem(name, value) : storage.removeItem(name)));
  return made;
}

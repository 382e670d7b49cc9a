// Takes the place of npm packages that the emulators load but never use with our options: databases other than memory,
// telemetry, access logs, geometry, requests to other servers. package.json lists them. An emulator that does use one
// of them fails with this message.

const leftOut = (use) => () => {
  throw new Error(`${use} is part of an npm package that localdev/package.json leaves out.`);
};

module.exports = new Proxy(leftOut("This function"), {
  get(_, name) {
    if (name === "__esModule" || typeof name === "symbol") return undefined;
    // Not an arrow function, because some modules extend a class of the package when they are loaded.
    return function member() {
      leftOut(`${name}()`)();
    };
  },
});

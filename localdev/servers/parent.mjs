// The link to the parent process: the options, the ready line, and the exit when the parent ends.

// The only argument is a JSON object.
export const options = JSON.parse(process.argv[2]);

// The parent reads this line. It uses all other output for error messages only.
export function ready(facts) {
  process.stdout.write(`${JSON.stringify({ ready: facts })}\n`);
}

// Standard input ends when the parent closes it or ends. Everything is in memory, so that there is nothing to save.
process.stdin.on("end", () => process.exit(0));
process.stdin.on("error", () => process.exit(0));
process.stdin.resume();

// Does what it reads, a word a line, by pm2's own library over the connection that this keeps open, and answers each.
// It ends with its input, and pm2's daemon with it.
'use strict';

const [, , library, program, argument] = process.argv;
const pm2 = require(library);

const app = {
  name: 'node',
  script: program,
  args: [argument],
  interpreter: 'none',
  exec_mode: 'fork',
  autorestart: false,
};
const actions = {
  start: (done) => pm2.start(app, done),
  stop: (done) => pm2.stop(app.name, done),
  delete: (done) => pm2.delete(app.name, done),
};

// Lines of others are not for who reads this.
const answer = (error) => console.log(`answer ${error ? error.message || error : 'done'}`);

pm2.connect((error) => {
  answer(error);
  const lines = require('readline').createInterface({ input: process.stdin });
  lines.on('line', (word) => actions[word](answer));
  lines.on('close', () => pm2.killDaemon(() => process.exit(0)));
});

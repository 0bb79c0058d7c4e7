// What both Node clients share: checks, and the suite in terms of one function per command.
'use strict';
const assert = require('node:assert');
const { randomUUID } = require('node:crypto');

// `call(name, ...args)` sends a command and resolves to its plain reply.
async function suite(call) {
  const prefix = `js:${randomUUID()}:`;
  const [a, b, c] = ['a', 'b', 'c'].map((name) => prefix + name);
  const is = async (expected, ...command) =>
    assert.deepStrictEqual(await call(...command), expected, command.slice(0, 2).join(' '));

  await is('PONG', 'PING');
  await is('OK', 'SET', a, '1');
  await is('1', 'GET', a);
  await is(null, 'GET', c);
  await is(null, 'SET', a, '2', 'NX');
  await is(2, 'INCR', a);
  await is(12, 'INCRBY', a, '10');
  await is('OK', 'MSET', a, 'x', b, 'y z\r\n');
  assert.deepStrictEqual(await call('MGET', a, b, c), ['x', 'y z\r\n', null]);
  await is(3, 'APPEND', a, 'yz');
  await is(2, 'EXISTS', a, b, c);
  const large = 'v'.repeat(200000);
  await is('OK', 'SET', c, large);
  await is(large, 'GET', c);
  await is(1, 'EXPIRE', c, '100');
  assert.ok([99, 100].includes(await call('TTL', c)), 'ttl');
  await is(1, 'PERSIST', c);
  await is(-1, 'TTL', c);
  await is('OK', 'SET', b, 'soon', 'PX', '1000000');
  assert.ok((await call('PTTL', b)) > 900000, 'pttl');
  await is(1, 'PEXPIRE', b, '-1');
  await is(null, 'GET', b);
  await is(-2, 'TTL', b);
  await assert.rejects(call('INCR', a), /value is not an integer or out of range/);
  await assert.rejects(call('NOSUCH', a), /unknown command/);
  await is(2, 'DEL', a, b, c);
  // Sent without waiting: the client pipelines them.
  const many = await Promise.all(Array.from({ length: 500 }, () => call('INCR', a)));
  assert.deepStrictEqual(many, Array.from({ length: 500 }, (_, index) => index + 1));
  await is(1, 'DEL', a);
  return prefix;
}

function main(run) {
  const [host, port] = process.argv.slice(2);
  run(host, Number(port)).then(
    () => process.exit(0),
    (error) => {
      console.error(String(error && error.message ? error.message : error).replace(/\n/g, ' '));
      process.exit(1);
    },
  );
}

module.exports = { suite, main, assert };

// The suite with ioredis, which waits for `loading:0` in INFO: ioredis.js HOST PORT
'use strict';
const Redis = require('ioredis');
const { suite, main, assert } = require('./suite.js');

main(async (host, port) => {
  const options = { host, port, retryStrategy: null, maxRetriesPerRequest: 1 };
  const [client, other] = [new Redis(options), new Redis(options)];
  const prefix = await suite((name, ...args) => client.call(name, ...args));
  const key = prefix + 'counter';
  assert.deepStrictEqual(await client.multi().set(key, '1').incr(key).get(key).exec(), [
    [null, 'OK'],
    [null, 2],
    [null, '2'],
  ]);
  await client.watch(key);
  assert.deepStrictEqual(await client.multi().set(key, 'mine').exec(), [[null, 'OK']]);
  await client.watch(key);
  await other.set(key, 'theirs');
  assert.strictEqual(await client.multi().set(key, 'mine').exec(), null);
  assert.strictEqual(await client.get(key), 'theirs');
  await client.del(key);
  client.disconnect();
  other.disconnect();
});

// The suite with node-redis, over RESP3 (its default) and RESP2: node_redis.js HOST PORT
'use strict';
const { createClient, WatchError } = require('redis');
const { suite, main, assert } = require('./suite.js');

async function transactions(client, other, key) {
  await client.set(key, '1');
  assert.deepStrictEqual(await client.multi().incr(key).get(key).exec(), [2, '2']);
  await client.watch(key);
  assert.deepStrictEqual(await client.multi().set(key, 'mine').exec(), ['OK']);
  await client.watch(key);
  await other.set(key, 'theirs');
  await assert.rejects(client.multi().set(key, 'mine').exec(), WatchError);
  assert.strictEqual(await client.get(key), 'theirs');
  await client.del(key);
}

main(async (host, port) => {
  for (const RESP of [3, 2]) {
    const options = { socket: { host, port, reconnectStrategy: false }, RESP };
    const [client, other] = [createClient(options), createClient(options)];
    for (const each of [client, other]) {
      each.on('error', () => {});
      await each.connect();
    }
    const prefix = await suite((...command) => client.sendCommand(command));
    await transactions(client, other, prefix + 'counter');
    await client.close();
    await other.close();
  }
});

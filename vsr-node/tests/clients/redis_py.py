"""The suite with redis-py, over RESP2 and RESP3: redis_py.py HOST PORT"""

import sys
import uuid

import redis


def check(name, got, expected):
    if got != expected:
        sys.exit(f"{name}: got {got!r}, expected {expected!r}")


def strings(client, prefix):
    a, b, c = (prefix + suffix for suffix in "abc")
    check("set", client.set(a, "1"), True)
    check("get", client.get(a), b"1")
    check("get of nothing", client.get(c), None)
    check("set nx", client.set(a, "2", nx=True), None)
    check("set get", client.set(a, "5", get=True), b"1")
    check("incr", client.incr(a), 6)
    check("incrby", client.incrby(a, 10), 16)
    check("incrbyfloat", client.incrbyfloat(a, 0.5), 16.5)
    check("mset", client.mset({a: "x", b: b"\x00\r\n\xff"}), True)
    check("mget", client.mget([a, b, c]), [b"x", b"\x00\r\n\xff", None])
    check("append", client.append(a, "yz"), 3)
    check("exists", client.exists(a, b, c), 2)
    large = b"v" * 200_000
    check("large set", client.set(c, large), True)
    check("large get", client.get(c) == large, True)
    check("delete", client.delete(a, b, c), 3)


def errors(client, prefix):
    client.set(prefix + "text", "text")
    try:
        client.incr(prefix + "text")
        sys.exit("incr of text did not fail")
    except redis.ResponseError as error:
        check("error text", str(error), "value is not an integer or out of range")
    try:
        client.execute_command("NOSUCH", "a")
        sys.exit("an unknown command did not fail")
    except redis.ResponseError as error:
        check("unknown", str(error).startswith("unknown command 'NOSUCH'"), True)
    client.delete(prefix + "text")


def transactions(client, prefix):
    key = prefix + "counter"
    with client.pipeline(transaction=True) as pipe:
        check("multi", pipe.set(key, 1).incr(key).get(key).execute(), [True, 2, b"2"])
    with client.pipeline(transaction=False) as pipe:
        for _ in range(200):
            pipe.incr(key)
        check("pipeline", pipe.execute(), list(range(3, 203)))
    with client.pipeline() as pipe:
        pipe.watch(key)
        check("watched get", pipe.get(key), b"202")
        pipe.multi()
        pipe.set(key, "mine")
        check("watch undisturbed", pipe.execute(), [True])
    with client.pipeline() as pipe:
        pipe.watch(key)
        client.set(key, "theirs")
        pipe.multi()
        pipe.set(key, "mine")
        try:
            pipe.execute()
            sys.exit("a disturbed watch went through")
        except redis.WatchError:
            pass
    check("after the watch", client.get(key), b"theirs")
    client.delete(key)


def expiry(client, prefix):
    key = prefix + "ttl"
    check("set ex", client.set(key, "v", ex=100), True)
    check("ttl", 98 <= client.ttl(key) <= 100, True)
    check("persist", client.persist(key), True)
    check("ttl of no ttl", client.ttl(key), -1)
    check("expire", client.expire(key, 50), True)
    check("pttl", 48_000 <= client.pttl(key) <= 50_000, True)
    check("pexpire in the past", client.pexpire(key, -1), True)
    check("gone", client.get(key), None)
    check("ttl of nothing", client.ttl(key), -2)


def main(host, port):
    for protocol in (2, 3):
        client = redis.Redis(host=host, port=int(port), protocol=protocol, socket_timeout=10)
        prefix = f"py:{uuid.uuid4()}:"
        check("ping", client.ping(), True)
        check("loading", client.info()["loading"], 0)
        strings(client, prefix)
        errors(client, prefix)
        transactions(client, prefix)
        expiry(client, prefix)
        check("scan", list(client.scan_iter(match=prefix + "*")), [])
        client.close()


main(*sys.argv[1:])

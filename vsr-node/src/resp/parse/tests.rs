//! The parser against good, bad, cut and random bytes.

use super::*;

const LIMITS: ParseLimits = ParseLimits {
    arguments_max: 65_536,
    command_size_max: 1 << 20,
    authenticated: true,
};
const STRANGER: ParseLimits = ParseLimits {
    authenticated: false,
    ..LIMITS
};

fn words(buffer: &[u8]) -> Vec<Vec<u8>> {
    let mut args = Args::new();
    match parse(buffer, &LIMITS, &mut args) {
        Ok(Parsed::Command { consumed }) => assert_eq!(consumed, buffer.len()),
        other => panic!("{other:?}"),
    }
    args.iter_from(buffer, 0).map(<[u8]>::to_vec).collect()
}

fn error_text(buffer: &[u8], limits: &ParseLimits) -> String {
    let error = parse(buffer, limits, &mut Args::new()).expect_err("is refused");
    let mut out = Vec::new();
    error.write(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn arguments_are_ranges_of_the_buffer() {
    assert_eq!(
        words(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"),
        [&b"GET"[..], b"a"]
    );
    assert_eq!(words(b"*1\r\n$0\r\n\r\n"), [b""]);
    assert_eq!(words(b"*1\r\n$4\r\n\r\n\0\xFF\r\n"), [b"\r\n\0\xFF"]);
}

#[test]
fn empty_commands_are_taken_and_not_answered() {
    for empty in [&b"*0\r\n"[..], b"*-1\r\n", b"\r\n", b"\n", b"   \r\n"] {
        assert!(words(empty).is_empty(), "{empty:?}");
    }
}

#[test]
fn inline_commands_are_split_like_in_redis() {
    assert_eq!(words(b"PING\r\n"), [b"PING"]);
    assert_eq!(words(b"SET  a\tb \n"), [&b"SET"[..], b"a", b"b"]);
    assert_eq!(
        words(b"SET \"a b\" 'c\"d'\r\n"),
        [&b"SET"[..], b"a b", b"c\"d"]
    );
    assert_eq!(
        words(b"ECHO \"\\x41\\n\\r\\t\\b\\a\\\"\\q\"\r\n"),
        [&b"ECHO"[..], b"A\n\r\t\x08\x07\"q"]
    );
    assert_eq!(
        words(b"ECHO 'it\\'s' \"\"\r\n"),
        [&b"ECHO"[..], b"it's", b""]
    );
    assert_eq!(words(b"ECHO a\"b c\"\r\n"), [&b"ECHO"[..], b"ab c"]);
    assert_eq!(words(b"ECHO \"\\xZZ\"\r\n"), [&b"ECHO"[..], b"xZZ"]);
}

#[test]
fn bad_requests_get_the_words_of_redis() {
    let long_line = vec![b'1'; LINE_MAX + 10];
    let long_count = [b"*", &long_line[..]].concat();
    let long_size = [b"*1\r\n$", &long_line[..]].concat();
    let cases: [(&[u8], &str); 26] = [
        (b"*1\r\nGET\r\n", "expected '$', got 'G'"),
        (b"*1\r\n:3\r\n", "expected '$', got ':'"),
        (b"*1\r\n\r\n", "expected '$', got ' '"),
        (b"*2\r\n$3\r\nGET\r\n+a\r\n", "expected '$', got '+'"),
        (b"*abc\r\n", "invalid multibulk length"),
        (b"*\r\n", "invalid multibulk length"),
        (b"*+1\r\n", "invalid multibulk length"),
        (b"*01\r\n", "invalid multibulk length"),
        (b"*1 \r\n", "invalid multibulk length"),
        (b"*--1\r\n", "invalid multibulk length"),
        (b"*-0\r\n", "invalid multibulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*65537\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$x\r\n", "invalid bulk length"),
        (b"*1\r\n$\r\n", "invalid bulk length"),
        (b"*1\r\n$1048577\r\n", "invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        (&long_count, "too big mbulk count string"),
        (&long_size, "too big bulk count string"),
        (&long_line, "too big inline request"),
        (b"SET \"a b\r\n", "unbalanced quotes in request"),
        (b"SET 'a\r\n", "unbalanced quotes in request"),
        (b"SET \"a\"b\r\n", "unbalanced quotes in request"),
    ];
    for (bytes, text) in cases {
        assert_eq!(
            error_text(bytes, &LIMITS),
            format!("-ERR Protocol error: {text}\r\n")
        );
    }
}

#[test]
fn strangers_may_not_announce_much() {
    let cases: [(&[u8], &str); 4] = [
        (b"*11\r\n", "unauthenticated multibulk length"),
        (b"*1\r\n$16385\r\n", "unauthenticated bulk length"),
        (b"*2147483648\r\n", "invalid multibulk length"),
        (b"*1\r\n$536870913\r\n", "invalid bulk length"),
    ];
    for (bytes, text) in cases {
        assert_eq!(
            error_text(bytes, &STRANGER),
            format!("-ERR Protocol error: {text}\r\n")
        );
    }
    let mut args = Args::new();
    assert!(parse(b"*10\r\n$16384\r\n", &STRANGER, &mut args).is_ok());
}

/// The parser on a growing buffer, called only when it asked for it; returns how often it was.
fn feed(whole: &[u8], step: usize) -> (Vec<Vec<Vec<u8>>>, usize) {
    let (mut commands, mut attempts, mut start, mut needed) = (Vec::new(), 0, 0, 1);
    let mut args = Args::new();
    for end in (step..whole.len() + step).step_by(step) {
        let end = end.min(whole.len());
        while end - start >= needed && end > start {
            attempts += 1;
            let buffer = &whole[start..end];
            match parse(buffer, &LIMITS, &mut args).expect("good bytes") {
                Parsed::Incomplete { needed: more } => {
                    assert!(
                        more > buffer.len(),
                        "asking for what is there would never end"
                    );
                    needed = more;
                }
                Parsed::Command { consumed } => {
                    commands.push(args.iter_from(buffer, 0).map(<[u8]>::to_vec).collect());
                    start += consumed;
                    needed = 1;
                }
            }
        }
    }
    assert_eq!(start, whole.len(), "everything was taken");
    (commands, attempts)
}

#[test]
fn commands_cut_at_any_byte_are_the_same_commands() {
    let whole = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$12\r\nhello\r\nworld\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$0\r\n\r\n";
    let (commands, _) = feed(whole, whole.len());
    assert_eq!(commands.len(), 3);
    for step in 1..whole.len() {
        assert_eq!(feed(whole, step).0, commands, "in pieces of {step}");
    }
}

#[test]
fn a_huge_command_in_small_pieces_is_not_parsed_for_every_piece() {
    let mut whole = b"*50000\r\n".to_vec();
    for _ in 0..50_000 {
        whole.extend_from_slice(b"$5\r\nabcde\r\n");
    }
    let (commands, attempts) = feed(&whole, 7);
    assert_eq!(commands[0].len(), 50_000);
    assert!(
        attempts < 300,
        "{attempts} attempts for {} pieces",
        whole.len() / 7
    );
}

#[test]
fn random_bytes_never_panic_and_always_make_progress() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    const ALPHABET: &[u8] = b"*$\r\n0123456789-+:\"'\\x aGET\0\xFF";
    let mut args = Args::new();
    let mut outcomes = [0; 3];
    for _ in 0..200_000 {
        let size = next() as usize % 40;
        let bytes: Vec<u8> = (0..size)
            .map(|_| ALPHABET[next() as usize % ALPHABET.len()])
            .collect();
        match parse(&bytes, &LIMITS, &mut args) {
            Ok(Parsed::Command { consumed }) => {
                assert!(consumed > 0 && consumed <= bytes.len());
                assert!(args.iter_from(&bytes, 0).map(<[u8]>::len).sum::<usize>() <= consumed);
                outcomes[0] += 1;
            }
            Ok(Parsed::Incomplete { needed }) => {
                assert!(needed > bytes.len());
                outcomes[1] += 1;
            }
            Err(_) => outcomes[2] += 1,
        }
    }
    assert!(
        outcomes.iter().all(|count| *count > 1000),
        "every outcome was seen: {outcomes:?}"
    );
}

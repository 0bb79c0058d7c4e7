//! Replies in both dialects.

use super::*;

fn converted(reply: &[u8]) -> String {
    let mut out = b"before".to_vec();
    assert!(
        append_reply(&mut out, reply, Protocol::Resp2, b"$-1\r\n"),
        "{reply:?}"
    );
    String::from_utf8(out.split_off(6)).expect("text")
}

#[test]
fn what_resp2_lacks_is_rewritten() {
    let cases: [(&[u8], &str); 14] = [
        (b"+OK\r\n", "+OK\r\n"),
        (b"-ERR no\r\n", "-ERR no\r\n"),
        (b":-12\r\n", ":-12\r\n"),
        (b"$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n"),
        (b"_\r\n", "$-1\r\n"),
        (
            b"*3\r\n_\r\n$1\r\na\r\n*0\r\n",
            "*3\r\n$-1\r\n$1\r\na\r\n*0\r\n",
        ),
        (
            b"%2\r\n+a\r\n:1\r\n+b\r\n%0\r\n",
            "*4\r\n+a\r\n:1\r\n+b\r\n*0\r\n",
        ),
        (b"~2\r\n:1\r\n:2\r\n", "*2\r\n:1\r\n:2\r\n"),
        (b"*1\r\n,3.25\r\n", "*1\r\n$4\r\n3.25\r\n"),
        (b"*2\r\n#t\r\n#f\r\n", "*2\r\n:1\r\n:0\r\n"),
        (b"*1\r\n(123\r\n", "*1\r\n$3\r\n123\r\n"),
        (b"=8\r\ntxt:some\r\n", "$4\r\nsome\r\n"),
        (b"!5\r\nERR x\r\n", "-ERR x\r\n"),
        (
            b"*2\r\n*1\r\n_\r\n-ERR x\r\n",
            "*2\r\n*1\r\n$-1\r\n-ERR x\r\n",
        ),
    ];
    for (reply, expected) in cases {
        assert_eq!(converted(reply), expected);
    }
}

#[test]
fn resp3_replies_are_copied() {
    for reply in [&b"_\r\n"[..], b"*1\r\n_\r\n", b"%1\r\n+a\r\n:1\r\n"] {
        let mut out = Vec::new();
        assert!(append_reply(&mut out, reply, Protocol::Resp3, b"$-1\r\n"));
        assert_eq!(out, reply);
    }
}

#[test]
fn malformed_replies_leave_nothing_behind() {
    for reply in [
        &b""[..],
        b"*2",
        b"*x\r\n",
        b"?\r\n",
        b"*1\r\n$5\r\nab",
        b"=2\r\nab\r\n",
        b"*1\r\n\n",
    ] {
        let mut out = b"before".to_vec();
        assert!(
            !append_reply(&mut out, reply, Protocol::Resp2, b""),
            "{reply:?}"
        );
        assert_eq!(out, b"before");
    }
}

#[test]
fn the_size_of_an_element_includes_everything_in_it() {
    let elements: [&[u8]; 7] = [
        b":1\r\n",
        b"$4\r\n\r\n\r\n\r\n",
        b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
        b"%1\r\n+a\r\n*1\r\n_\r\n",
        b"*0\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"-ERR\r\n",
    ];
    let all = elements.concat();
    let mut rest = &all[..];
    for element in elements {
        assert_eq!(element_size(rest), Some(element.len()));
        rest = &rest[element.len()..];
    }
    for element in elements {
        for end in 0..element.len() {
            assert_eq!(element_size(&element[..end]), None, "{:?}", &element[..end]);
        }
    }
    assert_eq!(
        split_array(b"*2\r\n:1\r\n:2\r\n"),
        Some((2, &b":1\r\n:2\r\n"[..]))
    );
    assert_eq!(split_array(b"_\r\n"), None);
}

#[test]
fn both_dialects_of_the_writer() {
    let write = |protocol| {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, protocol);
        writer.map(1);
        writer.simple("a");
        writer.null();
        writer.set(1);
        writer.text("hi");
        writer.null_array();
        writer.error("ERR two\r\nlines");
        String::from_utf8(out).expect("text")
    };
    assert_eq!(
        write(Protocol::Resp2),
        "*2\r\n+a\r\n$-1\r\n*1\r\n$2\r\nhi\r\n*-1\r\n-ERR two  lines\r\n"
    );
    assert_eq!(
        write(Protocol::Resp3),
        "%1\r\n+a\r\n_\r\n~1\r\n=6\r\ntxt:hi\r\n_\r\n-ERR two  lines\r\n"
    );
}

#[test]
fn unknown_commands_are_named_as_in_redis() {
    let text = |name: &[u8], args: &[&[u8]]| {
        String::from_utf8(ReplyText::unknown_command(name, args.iter().copied())).expect("text")
    };
    assert_eq!(
        text(b"foo", &[b"a", b"b"]),
        "ERR unknown command 'foo', with args beginning with: 'a' 'b' "
    );
    assert_eq!(
        text(b"foo", &[]),
        "ERR unknown command 'foo', with args beginning with: "
    );
    assert!(text(&[b'x'; 1000], &[&[b'y'; 1000], b"z"]).len() < 320);
}

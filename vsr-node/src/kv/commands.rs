//! The command table, shared by the RESP gateway and the machine: one place that says which commands
//! exist, how many arguments they take, where their keys are, and who executes them.
//!
//! A command is executed by the replicated machine ([`Handler::Machine`]), answered by the gateway
//! itself ([`Handler::Local`]), or never available ([`Handler::Never`], with the error to send).
//! The rows are in `command_table`.

use super::command_table::COMMANDS;

/// What the machine can execute: the number of a command inside a packed operation. The numbers are
/// part of the replicated log: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Opcode {
    /// `GET`
    Get = 1,
    /// `SET`
    Set = 2,
    /// `SETNX`
    SetNx = 3,
    /// `SETEX`
    SetEx = 4,
    /// `PSETEX`
    PSetEx = 5,
    /// `GETSET`
    GetSet = 6,
    /// `GETDEL`
    GetDel = 7,
    /// `GETEX`
    GetEx = 8,
    /// `MGET`
    MGet = 9,
    /// `MSET`
    MSet = 10,
    /// `MSETNX`
    MSetNx = 11,
    /// `DEL`
    Del = 12,
    /// `UNLINK`
    Unlink = 13,
    /// `EXISTS`
    Exists = 14,
    /// `TYPE`
    Type = 15,
    /// `INCR`
    Incr = 16,
    /// `INCRBY`
    IncrBy = 17,
    /// `DECR`
    Decr = 18,
    /// `DECRBY`
    DecrBy = 19,
    /// `INCRBYFLOAT`
    IncrByFloat = 20,
    /// `APPEND`
    Append = 21,
    /// `STRLEN`
    StrLen = 22,
    /// `SETRANGE`
    SetRange = 23,
    /// `GETRANGE`
    GetRange = 24,
    /// `SUBSTR`
    SubStr = 25,
    /// `EXPIRE`
    Expire = 26,
    /// `PEXPIRE`
    PExpire = 27,
    /// `EXPIREAT`
    ExpireAt = 28,
    /// `PEXPIREAT`
    PExpireAt = 29,
    /// `TTL`
    Ttl = 30,
    /// `PTTL`
    PTtl = 31,
    /// `EXPIRETIME`
    ExpireTime = 32,
    /// `PEXPIRETIME`
    PExpireTime = 33,
    /// `PERSIST`
    Persist = 34,
    /// `DELEX`
    DelEx = 35,
    /// `DELIFEQ`
    DelIfEq = 36,
    /// `SCAN`
    Scan = 37,
    /// `KEYS`
    Keys = 38,
    /// `RANDOMKEY`
    RandomKey = 39,
    /// `TOUCH`
    Touch = 40,
    /// `RENAME`
    Rename = 41,
    /// `RENAMENX`
    RenameNx = 42,
    /// `COPY`
    Copy = 43,
    /// `DBSIZE`
    DbSize = 44,
    /// `FLUSHALL`
    FlushAll = 45,
    /// `FLUSHDB`
    FlushDb = 46,
    /// A whole transaction: a watch list and the queued commands, as one operation.
    Exec = 100,
    /// The version of a key, for `WATCH`: 0 when it is absent.
    Version = 101,
}

/// How large the reply to a command may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplySize {
    /// At most 256 bytes, like every error.
    Short,
    /// As large as a reply may be.
    Large,
    /// The same, and with replies inside, which RESP2 may write with more bytes.
    Nested,
}

impl Opcode {
    /// The opcode of a byte, or `None` when there is no such opcode.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Get,
            2 => Self::Set,
            3 => Self::SetNx,
            4 => Self::SetEx,
            5 => Self::PSetEx,
            6 => Self::GetSet,
            7 => Self::GetDel,
            8 => Self::GetEx,
            9 => Self::MGet,
            10 => Self::MSet,
            11 => Self::MSetNx,
            12 => Self::Del,
            13 => Self::Unlink,
            14 => Self::Exists,
            15 => Self::Type,
            16 => Self::Incr,
            17 => Self::IncrBy,
            18 => Self::Decr,
            19 => Self::DecrBy,
            20 => Self::IncrByFloat,
            21 => Self::Append,
            22 => Self::StrLen,
            23 => Self::SetRange,
            24 => Self::GetRange,
            25 => Self::SubStr,
            26 => Self::Expire,
            27 => Self::PExpire,
            28 => Self::ExpireAt,
            29 => Self::PExpireAt,
            30 => Self::Ttl,
            31 => Self::PTtl,
            32 => Self::ExpireTime,
            33 => Self::PExpireTime,
            34 => Self::Persist,
            35 => Self::DelEx,
            36 => Self::DelIfEq,
            37 => Self::Scan,
            38 => Self::Keys,
            39 => Self::RandomKey,
            40 => Self::Touch,
            41 => Self::Rename,
            42 => Self::RenameNx,
            43 => Self::Copy,
            44 => Self::DbSize,
            45 => Self::FlushAll,
            46 => Self::FlushDb,
            100 => Self::Exec,
            101 => Self::Version,
            _ => return None,
        })
    }

    /// The number on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        self as u8
    }

    /// Whether it changes nothing, so that it may be a query instead of going through the log.
    #[must_use]
    pub fn is_read(self) -> bool {
        match self {
            Self::Exec => false,
            Self::Version => true,
            other => other.spec().flags.contains(Flags::READONLY),
        }
    }

    /// How large the reply to this command with `argc` arguments may be.
    #[must_use]
    pub const fn reply_size(self, argc: u16) -> ReplySize {
        match self {
            Self::MGet | Self::Scan | Self::Keys | Self::Exec => ReplySize::Nested,
            Self::Set if argc <= 2 => ReplySize::Short,
            Self::Get
            | Self::Set
            | Self::GetSet
            | Self::GetDel
            | Self::GetEx
            | Self::GetRange
            | Self::SubStr
            | Self::RandomKey
            | Self::IncrByFloat => ReplySize::Large,
            _ => ReplySize::Short,
        }
    }

    /// The row of this opcode's command.
    #[must_use]
    pub fn spec(self) -> &'static CommandSpec {
        match self {
            Self::Exec => &EXEC,
            Self::Version => &VERSION,
            // The table opens with the machine's commands in the order of their numbers; the test
            // `the_table_is_ordered_by_opcode` keeps it so.
            other => &COMMANDS[usize::from(other.byte()) - 1],
        }
    }

    /// The name in lower case, as Redis writes it in errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.spec().name
    }
}

/// Commands that the gateway answers without the machine (or by steering its transaction state).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Local {
    /// `HELLO`
    Hello,
    /// `AUTH`
    Auth,
    /// `PING`
    Ping,
    /// `ECHO`
    Echo,
    /// `QUIT`
    Quit,
    /// `RESET`
    Reset,
    /// `SELECT`
    Select,
    /// `CLIENT`
    Client,
    /// `COMMAND`
    Command,
    /// `INFO`
    Info,
    /// `CONFIG`
    Config,
    /// `TIME`
    Time,
    /// `ROLE`
    Role,
    /// `WAIT`
    Wait,
    /// `READONLY`
    ReadOnly,
    /// `READWRITE`
    ReadWrite,
    /// `CLUSTER`
    Cluster,
    /// `MULTI`
    Multi,
    /// `EXEC`
    Exec,
    /// `DISCARD`
    Discard,
    /// `WATCH`
    Watch,
    /// `UNWATCH`
    Unwatch,
}

/// Who executes a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// The replicated machine.
    Machine(Opcode),
    /// The gateway.
    Local(Local),
    /// Nobody: the whole error text, without the leading `-`.
    Never(&'static str),
}

/// Properties of a command, named as in `COMMAND INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// May change data.
    pub const WRITE: Self = Self(1);
    /// Never changes data.
    pub const READONLY: Self = Self(1 << 1);
    /// May need memory; refused when there is none.
    pub const DENYOOM: Self = Self(1 << 2);
    /// For operators.
    pub const ADMIN: Self = Self(1 << 3);
    /// Not from scripts.
    pub const NOSCRIPT: Self = Self(1 << 4);
    /// Allowed while loading (here: recovering).
    pub const LOADING: Self = Self(1 << 5);
    /// Allowed on a stale replica.
    pub const STALE: Self = Self(1 << 6);
    /// Constant or logarithmic time.
    pub const FAST: Self = Self(1 << 7);
    /// Allowed before authentication.
    pub const NO_AUTH: Self = Self(1 << 8);

    const NAMES: [(Self, &'static str); 9] = [
        (Self::WRITE, "write"),
        (Self::READONLY, "readonly"),
        (Self::DENYOOM, "denyoom"),
        (Self::ADMIN, "admin"),
        (Self::NOSCRIPT, "noscript"),
        (Self::LOADING, "loading"),
        (Self::STALE, "stale"),
        (Self::FAST, "fast"),
        (Self::NO_AUTH, "no_auth"),
    ];

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of the flags that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(flag, _)| self.contains(*flag))
            .map(|(_, name)| name)
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct CommandSpec {
    /// In lower case.
    pub name: &'static str,
    /// Who executes it.
    pub handler: Handler,
    /// As in Redis: the number of arguments including the name; negative means "at least".
    pub arity: i8,
    /// Properties.
    pub flags: Flags,
    /// The position of the first key among the arguments (the name is 0); 0 when there is none.
    pub first_key: i8,
    /// The position of the last key; negative counts from the end.
    pub last_key: i8,
    /// From one key to the next.
    pub key_step: i8,
    /// The group in `COMMAND DOCS`.
    pub group: &'static str,
    /// The version of Redis (or Valkey) that introduced it.
    pub since: &'static str,
    /// One sentence.
    pub summary: &'static str,
}

impl CommandSpec {
    /// Whether a command line of `argc` words, the name included, has an allowed length.
    #[must_use]
    pub const fn accepts(&self, argc: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 {
            argc >= least
        } else {
            argc == least
        }
    }

    /// The opcode when the machine executes it.
    #[must_use]
    pub const fn opcode(&self) -> Option<Opcode> {
        match self.handler {
            Handler::Machine(opcode) => Some(opcode),
            Handler::Local(_) | Handler::Never(_) => None,
        }
    }

    pub(super) const fn keys(self, first_key: i8, last_key: i8, key_step: i8) -> Self {
        Self {
            first_key,
            last_key,
            key_step,
            ..self
        }
    }

    pub(super) const fn docs(
        self,
        group: &'static str,
        since: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            group,
            since,
            summary,
            ..self
        }
    }
}

/// A row without keys and documentation.
pub(super) const fn spec(
    name: &'static str,
    handler: Handler,
    arity: i8,
    flags: Flags,
) -> CommandSpec {
    CommandSpec {
        name,
        handler,
        arity,
        flags,
        first_key: 0,
        last_key: 0,
        key_step: 0,
        group: "",
        since: "",
        summary: "",
    }
}

static EXEC: CommandSpec = spec("exec", Handler::Machine(Opcode::Exec), -1, Flags::WRITE);
static VERSION: CommandSpec = spec(
    "version",
    Handler::Machine(Opcode::Version),
    2,
    Flags::READONLY,
);

/// The longest name of a command.
const NAME_MAX: usize = 16;
/// The slots of the index by name. A power of two, more than four times the commands, so that
/// nearly every look-up finds its row with the first probe.
const INDEX_SLOTS: usize = 512;
const INDEX_EMPTY: u8 = u8::MAX;

const fn name_slot(name: &[u8]) -> usize {
    let mut hash: u32 = 0x811C_9DC5;
    let mut i = 0;
    while i < name.len() {
        hash = (hash ^ name[i] as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    (hash ^ (hash >> 15)) as usize % INDEX_SLOTS
}

/// Row numbers by the hash of the name, open addressing; built once, on first use.
static INDEX: std::sync::LazyLock<[u8; INDEX_SLOTS]> = std::sync::LazyLock::new(|| {
    let mut index = [INDEX_EMPTY; INDEX_SLOTS];
    for (row, command) in COMMANDS.iter().enumerate() {
        let mut slot = name_slot(command.name.as_bytes());
        while index[slot] != INDEX_EMPTY {
            slot = (slot + 1) % INDEX_SLOTS;
        }
        index[slot] = u8::try_from(row).expect("fewer than 255 commands");
    }
    index
});

/// The row of the command called `name`, in any case. Does not allocate.
#[must_use]
pub fn lookup(name: &[u8]) -> Option<&'static CommandSpec> {
    let mut lower = [0; NAME_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let mut slot = name_slot(lower);
    loop {
        let row = INDEX[slot];
        if row == INDEX_EMPTY {
            return None;
        }
        let command = &COMMANDS[usize::from(row)];
        if command.name.as_bytes() == lower {
            return Some(command);
        }
        slot = (slot + 1) % INDEX_SLOTS;
    }
}

/// All commands that have a name.
#[must_use]
pub fn commands() -> &'static [CommandSpec] {
    COMMANDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ordered_by_opcode() {
        for byte in 0..=u8::MAX {
            let Some(opcode) = Opcode::from_byte(byte) else {
                continue;
            };
            assert_eq!(opcode.byte(), byte);
            assert_eq!(opcode.spec().opcode(), Some(opcode), "{opcode:?}");
        }
    }

    #[test]
    fn every_command_is_found_in_any_case() {
        for command in commands() {
            let found = lookup(command.name.as_bytes()).expect("is in the table");
            assert_eq!(found.name, command.name);
            let upper = command.name.to_ascii_uppercase();
            assert_eq!(
                lookup(upper.as_bytes()).expect("any case").name,
                command.name
            );
            assert!(command.name.len() <= NAME_MAX);
            assert!(!command.summary.is_empty());
        }
        for unknown in [
            "",
            "gett",
            "ge",
            "nosuchcommand",
            "averyveryverylongnameindeed",
        ] {
            assert!(lookup(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn names_are_unique_and_commands_either_read_or_write() {
        for (i, a) in commands().iter().enumerate() {
            assert!(
                commands()[i + 1..].iter().all(|b| a.name != b.name),
                "{}",
                a.name
            );
            if a.opcode().is_some() {
                assert_ne!(
                    a.flags.contains(Flags::WRITE),
                    a.flags.contains(Flags::READONLY)
                );
            }
        }
        assert!(!Opcode::Exec.is_read());
        assert!(Opcode::Version.is_read());
        assert!(Opcode::Get.is_read());
        assert!(!Opcode::GetEx.is_read());
    }

    #[test]
    fn arity_counts_the_name_as_redis_does() {
        let get = lookup(b"get").expect("known");
        assert!(get.accepts(2) && !get.accepts(1) && !get.accepts(3));
        let set = lookup(b"set").expect("known");
        assert!(set.accepts(3) && set.accepts(9) && !set.accepts(2));
    }
}

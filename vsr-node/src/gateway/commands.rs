//! What becomes of a command: into a lane, into a transaction, or answered here.
//!
//! The checks and their order are those of Redis's `processCommand`: known, number of arguments,
//! password, state of the server, transaction. So are the words of the errors.

use super::channel::{Failure, Kind, Rejected, Waiter};
use super::connection::{Path, ReplyMode, Stall};
use super::core::{Core, Step};
use super::memory::{KEEP, LOCAL_ROOM, SHORT_ANSWER};
use super::pages::PAGE;
use super::transaction::Refused;
use crate::kv::{CommandSpec, Flags, Handler, Local, Opcode, lookup};
use crate::resp::{Args, Protocol, ReplyText, Writer, append_reply};

/// A parsed command.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    args: &'a Args,
    buffer: &'a [u8],
}

impl<'a> Call<'a> {
    /// The command whose arguments are ranges of `buffer`.
    pub(super) const fn new(args: &'a Args, buffer: &'a [u8]) -> Self {
        Self { args, buffer }
    }

    /// How many words it has, the name included.
    pub(super) fn count(&self) -> usize {
        self.args.len()
    }

    /// Word `index`; empty beyond the last.
    #[inline]
    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        self.args.get(self.buffer, index)
    }

    /// The words from `first` on.
    #[inline]
    pub(super) fn from(&self, first: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        self.args.iter_from(self.buffer, first)
    }

    /// Whether word `index` is `text`, in any case.
    pub(super) fn is(&self, index: usize, text: &str) -> bool {
        self.get(index).eq_ignore_ascii_case(text.as_bytes())
    }
}

impl Core {
    /// Executes one command of the connection in `slot`.
    #[inline]
    pub(super) fn execute(&mut self, slot: u32, call: Call<'_>) -> Step {
        let Some(spec) = lookup(call.get(0)) else {
            return self.unknown(slot, call);
        };
        let connection = self.table.at(slot);
        if !spec.accepts(call.count()) {
            connection.transaction.abort();
            return self.error(slot, ReplyText::arity(spec.name));
        }
        if !connection.authenticated && !spec.flags.contains(Flags::NO_AUTH) {
            connection.transaction.abort();
            return self.error(slot, "NOAUTH Authentication required.");
        }
        if !self.ready && !spec.flags.contains(Flags::LOADING) {
            connection.transaction.abort();
            return self.error(slot, Failure::Loading.text());
        }
        connection.last_command = spec.name;
        if connection.outstanding() > 0 && waits_for_quiet(spec) {
            return Step::Stall(Stall::Quiet);
        }
        if connection.transaction.is_open() && !steers_transaction(spec) {
            return self.queue(slot, spec, call);
        }
        match spec.handler {
            Handler::Machine(opcode) => {
                let is_read = spec.flags.contains(Flags::READONLY);
                if is_read && connection.read_only {
                    return self.read_stale(slot, opcode, call);
                }
                self.submit(slot, opcode, is_read, call)
            }
            Handler::Local(local) => self.local(slot, local, call),
            Handler::Never(text) => self.error(slot, text),
        }
    }

    /// Sends a command to the machine, over the log or as a query.
    #[inline]
    fn submit(&mut self, slot: u32, opcode: Opcode, is_read: bool, call: Call<'_>) -> Step {
        let generation = self.table.generation(slot);
        let connection = self.table.at(slot);
        let path = match (connection.outstanding(), connection.path, is_read) {
            (0, _, true) | (_, Path::Query, true) => Path::Query,
            (0, _, false) | (_, Path::Log, _) => Path::Log,
            // A write after reads that are under way: they must not see it.
            (_, Path::Query, false) => return Step::Stall(Stall::Quiet),
        };
        let lane = &mut self.lanes[connection.lane];
        let channel = match path {
            Path::Log => &mut lane.log,
            Path::Query => &mut lane.queries,
        };
        if let Some(failure) = channel.down() {
            self.counters.failed_commands += 1;
            return self.error(slot, failure.text());
        }
        let kind = if connection.is_silent() {
            Kind::Silent
        } else {
            Kind::Plain
        };
        let filling = channel.filling_number();
        match channel.push(
            opcode,
            call.from(1),
            Waiter {
                slot,
                generation,
                kind,
            },
            connection.filling != filling,
        ) {
            Ok(()) => {
                connection.filling = filling;
                connection.submitted(path);
                Step::Done
            }
            Err(Rejected::TooLarge) => self.error(slot, Failure::TooLarge.text()),
            Err(Rejected::Full) => {
                channel.block(slot, generation);
                self.counters.lane_stalls += 1;
                Step::Stall(Stall::Lane)
            }
        }
    }

    /// `READONLY`: from the state of this replica, whatever it is.
    fn read_stale(&mut self, slot: u32, opcode: Opcode, call: Call<'_>) -> Step {
        if self.table.at(slot).outstanding() > 0 {
            return Step::Stall(Stall::Quiet);
        }
        if self.table.pools.output.available() < KEEP {
            return Step::Stall(Stall::Memory);
        }
        self.stale_query.clear();
        self.stale_query.begin(opcode);
        for argument in call.from(1) {
            self.stale_query.argument(argument);
        }
        if self.stale_query.end().is_err() {
            return self.error(slot, Failure::TooLarge.text());
        }
        let query = self.stale_query.operation();
        let size = self.cluster.read_stale(query, &mut self.stale_reply);
        self.counters.stale_reads += 1;
        let stale_reply = core::mem::take(&mut self.stale_reply);
        let reply = crate::kv::ReplyReader::parse(&stale_reply[..size])
            .ok()
            .and_then(|mut reader| reader.next());
        self.answer(slot, |out, protocol| match reply {
            Some(reply) if append_reply(out, reply, protocol, b"$-1\r\n") => {}
            _ => Writer::new(out, protocol).error(Failure::BadReply.text()),
        });
        self.stale_reply = stale_reply;
        Step::Done
    }

    /// Between `MULTI` and `EXEC`.
    fn queue(&mut self, slot: u32, spec: &CommandSpec, call: Call<'_>) -> Step {
        let size_max = self.options.operation_size_max - 64;
        let queued = match spec.handler {
            Handler::Machine(opcode) => {
                let (connection, pools) = self.table.with_pools(slot);
                let transaction = &mut connection.transaction;
                transaction.queue(opcode, call.from(1), size_max, &mut pools.aside)
            }
            Handler::Never(text) => {
                self.table.at(slot).transaction.abort();
                return self.error(slot, text);
            }
            // The replies of one EXEC cannot have two dialects.
            Handler::Local(Local::Hello) => {
                self.table.at(slot).transaction.abort();
                return self.error(slot, "ERR Command not allowed inside a transaction");
            }
            Handler::Local(local) => {
                self.compose_aside(slot, local, call);
                let (connection, pools) = self.table.with_pools(slot);
                let transaction = &mut connection.transaction;
                transaction.queue_local(&pools.scratch, size_max, &mut pools.aside)
            }
        };
        let text = match queued {
            Ok(()) => return self.reply(slot, |writer| writer.simple("QUEUED")),
            Err(Refused::TooLarge) => {
                "ERR the transaction is larger than a batch of this cluster may be"
            }
            Err(Refused::NoMemory) => NO_TRANSACTION_MEMORY,
        };
        self.table.at(slot).transaction.abort();
        self.error(slot, text)
    }

    /// The reply of a command that the gateway answers, for its place in a transaction's reply, is
    /// written into the scratch memory.
    fn compose_aside(&mut self, slot: u32, local: Local, call: Call<'_>) {
        let mode = core::mem::take(&mut self.table.at(slot).reply_mode);
        self.table.pools.scratch.clear();
        self.composing_aside = true;
        let _: Step = self.local(slot, local, call);
        self.composing_aside = false;
        self.table.at(slot).reply_mode = mode;
    }

    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
    fn steer(&mut self, slot: u32, local: Local, call: Call<'_>) -> Step {
        let (connection, pools) = self.table.with_pools(slot);
        let transaction = &mut connection.transaction;
        let open = transaction.is_open();
        // Versions that are under way belong to the watches as they are now.
        let ends_watches = matches!(
            (local, open),
            (Local::Exec | Local::Discard, true) | (Local::Unwatch, false)
        );
        if ends_watches && transaction.is_waiting_for_versions() {
            return Step::Stall(Stall::Quiet);
        }
        match (local, open) {
            (Local::Multi, true) => self.error(slot, "ERR MULTI calls can not be nested"),
            (Local::Multi, false) => {
                transaction.open();
                self.ok(slot)
            }
            (Local::Exec, false) => self.error(slot, "ERR EXEC without MULTI"),
            (Local::Exec, true) => self.exec(slot),
            (Local::Discard, false) => self.error(slot, "ERR DISCARD without MULTI"),
            (Local::Discard, true) => {
                transaction.reset(&mut pools.aside);
                self.ok(slot)
            }
            (Local::Watch, true) => self.error(slot, "ERR WATCH inside MULTI is not allowed"),
            (Local::Watch, false) => self.watch(slot, call),
            // Queued within a transaction, where it changes nothing any more.
            (_, true) => self.ok(slot),
            (_, false) => {
                transaction.unwatch(&mut pools.aside);
                self.ok(slot)
            }
        }
    }

    fn watch(&mut self, slot: u32, call: Call<'_>) -> Step {
        let generation = self.table.generation(slot);
        let (connection, pools) = self.table.with_pools(slot);
        if connection.outstanding() > 0 && connection.path == Path::Log {
            return Step::Stall(Stall::Quiet);
        }
        let keys = call.from(1);
        let count = keys.len();
        let size: usize = call.from(1).map(<[u8]>::len).sum();
        let transaction = &connection.transaction;
        match transaction.has_room_for(count, size, &pools.aside) {
            Ok(()) => {}
            Err(Refused::TooLarge) => return self.error(slot, "ERR too many watched keys"),
            Err(Refused::NoMemory) => return self.error(slot, NO_TRANSACTION_MEMORY),
        }
        let channel = &mut self.lanes[connection.lane].queries;
        if let Some(failure) = channel.down() {
            return self.error(slot, failure.text());
        }
        // All or none: a WATCH of which half is under way cannot be tried again.
        if !channel.has_room_for(count, size + 12 * count) {
            if channel.is_empty() {
                return self.error(slot, Failure::TooLarge.text());
            }
            channel.block(slot, generation);
            return Step::Stall(Stall::Lane);
        }
        for (index, key) in keys.enumerate() {
            let kind = Kind::Version {
                last: index + 1 == count,
            };
            let filling = channel.filling_number();
            let pushed = channel.push(
                Opcode::Version,
                core::iter::once(key),
                Waiter {
                    slot,
                    generation,
                    kind,
                },
                connection.filling != filling,
            );
            assert!(pushed.is_ok(), "the room was asked for");
            connection.filling = filling;
            connection.transaction.watch(key, &mut pools.aside);
            connection.submitted(Path::Query);
        }
        Step::Done
    }

    fn exec(&mut self, slot: u32) -> Step {
        let (connection, pools) = self.table.with_pools(slot);
        if connection.transaction.is_aborted() {
            connection.transaction.reset(&mut pools.aside);
            return self.error(
                slot,
                "EXECABORT Transaction discarded because of previous errors.",
            );
        }
        if connection.transaction.is_watch_failed() {
            connection.transaction.reset(&mut pools.aside);
            return self.reply(slot, |writer| writer.null_array());
        }
        let spliced = connection.transaction.splices() > 0;
        if connection.outstanding() > 0 && (spliced || connection.path == Path::Query) {
            return Step::Stall(Stall::Quiet);
        }
        if let Some(failure) = self.lanes[connection.lane].log.down() {
            connection.transaction.reset(&mut pools.aside);
            return self.error(slot, failure.text());
        }
        match self.push_transaction(slot, spliced) {
            Ok(()) => {}
            Err(Rejected::Full) => return Step::Stall(Stall::Lane),
            Err(Rejected::TooLarge) => {
                let (connection, pools) = self.table.with_pools(slot);
                connection.transaction.reset(&mut pools.aside);
                return self.error(slot, Failure::TooLarge.text());
            }
        }
        self.counters.transactions += 1;
        if spliced {
            Step::DoneThenStall(Stall::Quiet)
        } else {
            Step::Done
        }
    }

    /// Packs the connection's transaction into its lane, or has it wait there.
    fn push_transaction(&mut self, slot: u32, spliced: bool) -> Result<(), Rejected> {
        let generation = self.table.generation(slot);
        let (connection, pools) = self.table.with_pools(slot);
        let kind = match (connection.is_silent(), spliced) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::SplicedExec,
            (false, false) => Kind::Exec,
        };
        let mut scratch = core::mem::take(&mut pools.scratch);
        connection.transaction.copy_to(&pools.aside, &mut scratch);
        let packed = connection.transaction.packed(&scratch);
        let channel = &mut self.lanes[connection.lane].log;
        let filling = channel.filling_number();
        let waiter = Waiter {
            slot,
            generation,
            kind,
        };
        let newcomer = connection.filling != filling;
        let pushed = channel.push_with(Opcode::Exec, waiter, newcomer, |builder| {
            builder.watches(packed.watches());
            for command in packed.queued() {
                builder.argument(command);
            }
        });
        pools.put_back(scratch);
        match pushed {
            Ok(()) => {
                if kind == Kind::Silent {
                    connection.transaction.drop_splices(&mut pools.aside);
                }
                connection.filling = filling;
                connection.submitted(Path::Log);
                connection.transaction.sent(&mut pools.aside);
            }
            Err(Rejected::Full) => channel.block(slot, generation),
            Err(Rejected::TooLarge) => {}
        }
        pushed
    }

    fn unknown(&mut self, slot: u32, call: Call<'_>) -> Step {
        let connection = self.table.at(slot);
        connection.transaction.abort();
        // As Redis: a web browser that was tricked into talking to this port is cut off.
        if call.is(0, "post") || call.is(0, "host:") {
            connection.closing = true;
            return Step::Done;
        }
        self.error(slot, ReplyText::unknown_command(call.get(0), call.from(1)))
    }

    /// Answers with an error.
    pub(super) fn error(&mut self, slot: u32, text: impl AsRef<[u8]>) -> Step {
        self.reply(slot, |writer| writer.error(text))
    }

    /// Answers with OK.
    pub(super) fn ok(&mut self, slot: u32) -> Step {
        self.reply(slot, |writer| writer.ok())
    }

    /// Answers here, in the connection's order.
    pub(super) fn reply(&mut self, slot: u32, write: impl FnOnce(&mut Writer<'_>)) -> Step {
        self.counters.local_commands += 1;
        self.answer(slot, |out, protocol| write(&mut Writer::new(out, protocol)));
        Step::Done
    }

    /// `PING` and `ECHO` say what they were told, however long it is.
    fn echo(&mut self, slot: u32, text: &[u8]) -> Step {
        let is_long = text.len() > SHORT_ANSWER && !self.composing_aside;
        if is_long && self.table.at(slot).outstanding() > 0 {
            return Step::Stall(Stall::Quiet);
        }
        if is_long && self.table.pools.output.available() < text.len() / PAGE + LOCAL_ROOM {
            return Step::Stall(Stall::Memory);
        }
        self.reply(slot, |writer| writer.bulk(text))
    }

    /// Commands that need no cluster.
    fn local(&mut self, slot: u32, local: Local, call: Call<'_>) -> Step {
        match local {
            Local::Ping if call.count() == 1 => self.reply(slot, |writer| writer.simple("PONG")),
            Local::Ping if call.count() == 2 => self.echo(slot, call.get(1)),
            Local::Ping => self.error(slot, ReplyText::arity("ping")),
            Local::Echo => self.echo(slot, call.get(1)),
            Local::Quit => {
                let step = self.ok(slot);
                self.table.at(slot).closing = true;
                step
            }
            Local::Reset => self.reset(slot),
            Local::Select => match call.get(1) {
                b"0" => self.ok(slot),
                index if is_integer(index) => self.error(slot, "ERR DB index is out of range"),
                _ => self.error(slot, "ERR invalid DB index"),
            },
            Local::Hello => self.hello(slot, call),
            Local::Auth => self.auth(slot, call),
            Local::ReadOnly | Local::ReadWrite => {
                self.table.at(slot).read_only = local == Local::ReadOnly;
                self.ok(slot)
            }
            Local::Multi | Local::Exec | Local::Discard | Local::Watch | Local::Unwatch => {
                self.steer(slot, local, call)
            }
            Local::Client => self.client(slot, call),
            Local::Command => self.command(slot, call),
            Local::Info => self.info(slot, call),
            Local::Config => self.config(slot, call),
            Local::Time => self.time(slot),
            Local::Role => self.role(slot),
            Local::Wait => self.wait(slot, call),
            Local::Cluster => self.cluster_command(slot, call),
        }
    }

    fn reset(&mut self, slot: u32) -> Step {
        if self.table.at(slot).transaction.is_waiting_for_versions() {
            return Step::Stall(Stall::Quiet);
        }
        let open_door = self.options.password.is_none();
        let (connection, pools) = self.table.with_pools(slot);
        connection.reset(pools);
        connection.authenticated = open_door;
        self.reply(slot, |writer| writer.simple("RESET"))
    }

    fn hello(&mut self, slot: u32, call: Call<'_>) -> Step {
        let mut protocol = self.table.at(slot).protocol;
        if call.count() > 1 {
            protocol = match call.get(1) {
                b"2" => Protocol::Resp2,
                b"3" => Protocol::Resp3,
                version if is_integer(version) => {
                    return self.error(slot, "NOPROTO unsupported protocol version");
                }
                _ => {
                    return self.error(
                        slot,
                        "ERR Protocol version is not an integer or out of range",
                    );
                }
            };
        }
        let mut at = 2;
        let mut login = None;
        let mut name = None;
        while at < call.count() {
            let left = call.count() - at - 1;
            if call.is(at, "auth") && left >= 2 {
                login = Some((call.get(at + 1), call.get(at + 2)));
                at += 3;
            } else if call.is(at, "setname") && left >= 1 {
                name = Some(call.get(at + 1));
                at += 2;
            } else {
                let mut text = b"ERR Syntax error in HELLO option '".to_vec();
                text.extend_from_slice(repeated(call.get(at)));
                text.push(b'\'');
                return self.error(slot, text);
            }
        }
        if let Some((user, password)) = login
            && !self.log_in(slot, user, password)
        {
            return self.error(slot, WRONG_PASSWORD);
        }
        if !self.table.at(slot).authenticated {
            return self.error(slot, HELLO_NOAUTH);
        }
        if let Some(name) = name {
            if !is_printable(name) {
                return self.error(slot, BAD_NAME);
            }
            if !self.table.at(slot).name.set(name) {
                return self.error(slot, LONG_NAME);
            }
        }
        self.table.at(slot).protocol = protocol;
        self.describe_hello(slot)
    }

    fn auth(&mut self, slot: u32, call: Call<'_>) -> Step {
        let (user, password) = match call.count() {
            2 if self.options.password.is_none() => {
                return self.error(
                    slot,
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                );
            }
            2 => (&b"default"[..], call.get(1)),
            3 => (call.get(1), call.get(2)),
            _ => return self.error(slot, "ERR syntax error"),
        };
        if self.log_in(slot, user, password) {
            self.ok(slot)
        } else {
            self.error(slot, WRONG_PASSWORD)
        }
    }

    fn log_in(&mut self, slot: u32, user: &[u8], password: &[u8]) -> bool {
        let right = user == b"default"
            && self
                .options
                .password
                .as_ref()
                .is_none_or(|right| same_secret(right, password));
        if right {
            self.table.at(slot).authenticated = true;
        } else {
            self.counters.failed_logins += 1;
        }
        right
    }

    /// `CLIENT REPLY`.
    pub(super) fn client_reply(&mut self, slot: u32, call: Call<'_>) -> Step {
        let connection = self.table.at(slot);
        if call.is(2, "on") {
            connection.reply_mode = ReplyMode::On;
            return self.ok(slot);
        }
        connection.reply_mode = if call.is(2, "off") {
            ReplyMode::Off
        } else if call.is(2, "skip") {
            match connection.reply_mode {
                ReplyMode::Off => ReplyMode::Off,
                _ => ReplyMode::SkipNext,
            }
        } else {
            return self.error(slot, "ERR syntax error");
        };
        Step::Done
    }
}

/// Redis's words for a wrong password.
const WRONG_PASSWORD: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time";
/// Redis's words for a bad client name.
pub(super) const BAD_NAME: &str =
    "ERR Client names cannot contain spaces, newlines or special characters.";

/// The same for one that is too long.
pub(super) const LONG_NAME: &str = "ERR Client names and library names have at most 64 bytes.";
const _: () = assert!(super::connection::NAME_MAX == 64, "as the error says");
/// Transactions of all connections share memory of a fixed size.
const NO_TRANSACTION_MEMORY: &str =
    "ERR no memory is left for another transaction or watched key, try again later";

/// As much of a client's words as an error repeats.
pub(super) fn repeated(text: &[u8]) -> &[u8] {
    &text[..text.len().min(128)]
}

/// Commands that must not be executed before those in front of them are answered: they change how
/// replies are written, or their answers are too long to be held back.
const fn waits_for_quiet(spec: &CommandSpec) -> bool {
    matches!(
        spec.handler,
        Handler::Local(
            Local::Hello
                | Local::Reset
                | Local::Client
                | Local::Command
                | Local::Info
                | Local::Config
                | Local::Cluster
        )
    )
}

/// Commands that are executed at once within a transaction.
const fn steers_transaction(spec: &CommandSpec) -> bool {
    matches!(
        spec.handler,
        Handler::Local(
            Local::Multi | Local::Exec | Local::Discard | Local::Watch | Local::Quit | Local::Reset
        )
    )
}

/// Without a hint, by the time it takes, where the first difference is.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    let difference = a
        .iter()
        .zip(b.iter().chain(core::iter::repeat(&0)))
        .fold(a.len() ^ b.len(), |sum, (a, b)| sum | usize::from(a ^ b));
    core::hint::black_box(difference) == 0
}

/// Whether `text` is a number as far as error messages care.
pub(super) fn is_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    !digits.is_empty() && digits.len() < 19 && digits.iter().all(u8::is_ascii_digit)
}

/// What Redis accepts in names: no spaces, nothing unprintable.
pub(super) fn is_printable(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

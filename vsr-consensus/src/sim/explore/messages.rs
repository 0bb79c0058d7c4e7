//! Every message that was ever sent, once: the network of the explorer is a set.
//!
//! A message that was sent may arrive at any time, any number of times, or never. What differs in
//! nothing that its receiver decides by is the same message, so that the set stays small; what
//! decides nothing (pings, answers to heartbeats, replies to clients) is not kept at all.

use std::format;
use std::string::String;
use std::vec::Vec;

use vsr_types::body::LogSuffix;
use vsr_types::message::{Prepare, PrepareOk};
use vsr_types::{Command, Header, Op};

use super::Bounds;
use super::table::Table;
use crate::replica::fingerprint::Fingerprint;

/// The place of a message in [`Messages`].
pub(super) type MessageId = u32;

/// One message to one replica.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) from: u8,
    pub(super) to: u8,
    pub(super) command: Command,
    pub(super) view: u64,
    pub(super) bytes: Vec<u8>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Messages {
    all: Vec<Message>,
    known: Table,
    view_max: u64,
    heartbeats: bool,
    detours: bool,
}

impl Messages {
    pub(super) fn new(bounds: &Bounds) -> Self {
        Self {
            all: Vec::new(),
            known: Table::new(),
            view_max: bounds.views,
            heartbeats: bounds.heartbeats,
            detours: bounds.detours,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, id: MessageId) -> &Message {
        &self.all[id as usize]
    }

    /// Whether this is part of a question and its answers, which are one step within the bounds.
    pub(super) fn is_repair(&self, id: MessageId) -> bool {
        let command = self.get(id).command;
        let repairs = matches!(
            command,
            Command::GetPrepare
                | Command::GetHeaders
                | Command::Headers
                | Command::IncarnationReply
        );
        repairs && !self.detours
    }

    /// Whether the answer to this arrives in the same step: it only tells how often its asker crashed.
    pub(super) fn is_question(&self, id: MessageId) -> bool {
        !self.detours && self.get(id).command == Command::IncarnationQuery
    }

    /// Whether all that is sent on hearing this is part of the same fetch.
    pub(super) fn is_answered(&self, id: MessageId) -> bool {
        self.is_repair(id) && self.get(id).command == Command::GetPrepare
    }

    /// The message as a member of the set; none if it is not kept, or beyond the bounds.
    pub(super) fn intern(
        &mut self,
        from: u8,
        to: u8,
        header: &Header,
        body: &[u8],
    ) -> Option<MessageId> {
        let command = header.command()?;
        let is_idle = matches!(
            command,
            Command::Ping | Command::Pong | Command::CommitOk | Command::InitCommit
        ) || (!self.heartbeats && command == Command::Commit)
            || (!self.detours && matches!(command, Command::GetView | Command::StartViewChange));
        if is_idle || header.view().raw() > self.view_max {
            return None;
        }
        let mut key = Fingerprint::new();
        key.word(u64::from(from) << 16 | u64::from(to) << 8 | command as u64);
        if let Some(ok) = header.fields::<PrepareOk>() {
            key.incarnation(header.incarnation());
            key.word(header.view().raw());
            key.word(ok.op.raw());
            key.identity(&ok.prepare);
        } else {
            // A start_view's crash vector is courtesy; its checksums cover that.
            let is_start = command == Command::StartView;
            let skipped = if is_start {
                size_of::<vsr_types::CrashVector>()
            } else {
                0
            };
            key.bytes(&bytemuck::bytes_of(header)[if is_start { 16 } else { 0 }..]);
            key.bytes(&body[skipped.min(body.len())..]);
        }
        let key = key.finish();
        if let Some(known) = self.known.get(key) {
            return Some(known);
        }
        let id = self.all.len() as MessageId;
        self.known.insert(key, id);
        self.all.push(Message {
            from,
            to,
            command,
            view: header.view().raw(),
            bytes: [bytemuck::bytes_of(header), body].concat(),
        });
        Some(id)
    }

    /// The message in words.
    pub(super) fn describe(&self, id: MessageId) -> String {
        let message = self.get(id);
        let header: Header = bytemuck::pod_read_unaligned(&message.bytes[..128]);
        let op = header
            .fields::<Prepare>()
            .map(|prepare| prepare.op)
            .or_else(|| header.fields::<PrepareOk>().map(|ok| ok.op))
            .map_or(String::new(), |op: Op| format!(" op {op}"));
        let suffix = size_of::<LogSuffix>();
        let logs = matches!(message.command, Command::DoViewChange | Command::StartView);
        let count = message.bytes.len().saturating_sub(128 + suffix) / 128;
        let log = if logs {
            format!(" with {count} headers")
        } else {
            String::new()
        };
        format!(
            "R{} -> R{} {} view {}{op}{log}",
            message.from,
            message.to,
            message.command.name(),
            message.view
        )
    }
}

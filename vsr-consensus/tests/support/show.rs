//! Messages in words, for transcripts and for failures.

use std::fmt::Write as _;

use vsr_types::body::{self, LogSuffix};
use vsr_types::message::{
    Commit, CommitOk, DoViewChange, GetPrepare, HandOver, HandOverOutcome, HandOverResult, Headers,
    InitResult, Ping, Pong, Prepare, PrepareOk, Query, QueryReply, RecoveryRequest,
    RecoveryResponse, Reject, RejectReason, Reply, StartView,
};
use vsr_types::{Batch, Command, Digest, Frame, Request, RequestHeader};

/// The first four bytes of a digest: enough to see whether two differ.
pub fn short(digest: Digest) -> String {
    format!("{:08x}", (digest.raw() >> 96) as u32)
}

fn quoted(bytes: &[u8]) -> String {
    if bytes.len() > 40 {
        return format!("{} bytes", bytes.len());
    }
    format!("\"{}\"", String::from_utf8_lossy(bytes))
}

/// One message in one line, without who sent it.
pub fn describe(frame: &Frame<'_>) -> String {
    let command = frame.command();
    let mut line = command.name().to_owned();
    // Writing to a string cannot fail.
    let _: std::fmt::Result = match command {
        Command::Request => describe_request(&mut line, frame),
        Command::Prepare => describe_prepare(&mut line, frame),
        Command::PrepareOk => {
            let ok = frame.fields::<PrepareOk>().expect("its command says so");
            write!(line, " op {}, applied {}", ok.op.raw(), ok.applied.raw())
        }
        Command::Commit => {
            let commit = frame.fields::<Commit>().expect("its command says so");
            let (op, committed) = (commit.op.raw(), commit.commit.raw());
            write!(line, " #{} op {op}, commit {committed}", commit.sequence)
        }
        Command::CommitOk => {
            let ok = frame.fields::<CommitOk>().expect("its command says so");
            let (op, applied) = (ok.op.raw(), ok.applied.raw());
            write!(line, " #{} op {op}, applied {applied}", ok.sequence)
        }
        Command::GetPrepare => {
            let wanted = frame.fields::<GetPrepare>().expect("its command says so");
            write!(line, " ops {} to {}", wanted.from.raw(), wanted.to.raw())
        }
        Command::Headers => {
            let headers = frame.fields::<Headers>().expect("its command says so");
            match frame.body().len() / vsr_types::HEADER_SIZE {
                0 => write!(line, " no more from op {}", headers.from.raw()),
                count => write!(line, " {count} from op {}", headers.from.raw()),
            }
        }
        Command::StartViewChange
        | Command::DoViewChange
        | Command::StartView
        | Command::GetView
        | Command::HandOver
        | Command::HandOverResult => describe_change(&mut line, frame),
        Command::Ping => {
            let ping = frame.fields::<Ping>().expect("its command says so");
            write!(
                line,
                " op {}, applied {}",
                ping.op.raw(),
                ping.applied.raw()
            )
        }
        Command::Pong => {
            let pong = frame.fields::<Pong>().expect("its command says so");
            write!(
                line,
                " op {}, applied {}",
                pong.op.raw(),
                pong.applied.raw()
            )
        }
        Command::Query => {
            let query = frame.fields::<Query>().expect("its command says so");
            write!(line, " {}: {}", query.query.raw(), quoted(frame.body()))
        }
        _ => describe_answer(&mut line, frame),
    };
    line
}

fn describe_change(line: &mut String, frame: &Frame<'_>) -> std::fmt::Result {
    let view = frame.header().view().raw();
    if let Some(vote) = frame.fields::<DoViewChange>() {
        let (log_view, op, commit) = (vote.log_view.raw(), vote.op.raw(), vote.commit.raw());
        let log = format!("its log is view {log_view}'s to op {op}, commit {commit}");
        return write!(line, " {view}: {log}{}", bodies(frame, op));
    }
    if let Some(start) = frame.fields::<StartView>() {
        let (op, commit) = (start.op.raw(), start.commit.raw());
        return write!(line, " {view}: its log ends with op {op}, commit {commit}");
    }
    if let Some(order) = frame.fields::<HandOver>() {
        return write!(line, " to R{}", order.target);
    }
    if let Some(result) = frame.fields::<HandOverResult>() {
        let outcome = HandOverOutcome::from_raw(result.outcome).expect("a known outcome");
        return write!(line, " {outcome:?}");
    }
    write!(line, " {view}")
}

/// Which of the last entries a vote has no body of.
fn bodies(frame: &Frame<'_>, op: u64) -> String {
    let suffix: LogSuffix = body::read(frame.body()).expect("a vote has a suffix");
    let first = op + 1 - suffix.count;
    let is_here = |index: u64| suffix.present[index as usize / 64] >> (index % 64) & 1 == 1;
    let missing: Vec<String> = (0..suffix.count)
        .filter(|&index| !is_here(index))
        .map(|index| (first + index).to_string())
        .collect();
    if missing.is_empty() {
        String::new()
    } else {
        format!(", without op {}", missing.join(" "))
    }
}

fn describe_answer(line: &mut String, frame: &Frame<'_>) -> std::fmt::Result {
    if let Some(reply) = frame.fields::<Reply>() {
        let (request, op) = (reply.request.raw(), reply.op.raw());
        if request == 0 {
            return write!(line, " session {op}");
        }
        return write!(
            line,
            " to request {request}, op {op}: {}",
            quoted(frame.body())
        );
    }
    if let Some(reply) = frame.fields::<QueryReply>() {
        let (query, op) = (reply.query.raw(), reply.op.raw());
        return write!(line, " to query {query}, op {op}: {}", quoted(frame.body()));
    }
    if let Some(reject) = frame.fields::<Reject>() {
        let reason = RejectReason::from_raw(reject.reason).expect("a known reason");
        write!(line, " of request {}: {reason:?}", reject.request.raw())?;
        if reject.detail != 0 {
            write!(line, " ({})", reject.detail)?;
        }
    }
    if let Some(request) = frame.fields::<RecoveryRequest>() {
        assert!(request.reserved == [0; 3], "reserved fields are zero");
        write!(line, " as life {}", frame.header().incarnation().counter)?;
    }
    if let Some(response) = frame.fields::<RecoveryResponse>() {
        let (view, op) = (frame.header().view().raw(), response.op.raw());
        write!(line, " view {view}, op {op}")?;
    }
    if let Some(result) = frame.fields::<InitResult>() {
        let outcome = vsr_types::message::InitOutcome::from_raw(result.outcome);
        write!(line, " {:?}", outcome.expect("a known outcome"))?;
    }
    Ok(())
}

fn describe_request(line: &mut String, frame: &Frame<'_>) -> std::fmt::Result {
    match frame.request() {
        Some(request) => write!(line, " {}", request_in_words(&request)),
        None => write!(line, " malformed"),
    }
}

fn request_in_words(request: &Request<'_>) -> String {
    let header: &RequestHeader = request.header();
    if header.request.raw() == 0 {
        return "for a session".to_owned();
    }
    format!("{}: {}", header.request.raw(), quoted(request.operation()))
}

fn describe_prepare(line: &mut String, frame: &Frame<'_>) -> std::fmt::Result {
    let prepare = frame.fields::<Prepare>().expect("its command says so");
    let count = Batch::parse(frame.body()).map_or(0, |batch| batch.count());
    let plural = if count == 1 { "" } else { "s" };
    let (op, commit) = (prepare.op.raw(), prepare.commit.raw());
    write!(line, " op {op}, commit {commit}, {count} request{plural}")?;
    let route = frame.header().route().expect("a frame's route was checked");
    let hops: Vec<String> = route.hops().map(|hop| hop.to_string()).collect();
    if hops.is_empty() {
        write!(line, ", direct")
    } else {
        write!(line, ", via {}", hops.join(" "))
    }
}

//! An image comes to every replica of a cluster-to-be (R7.4, R7.5).
//!
//! All are asked first whether they would take it, so that a refusal costs nothing. Then each gets the same
//! chunks in the same order, a few ahead of its answers; and in the end each is asked whether what it has
//! is the state that was announced.

use std::io;
use std::time::Duration;

use bytemuck::Zeroable;
use tokio::time::{sleep, timeout};
use vsr_types::message::{
    ImageOffer, PUT_BEGIN, PUT_CHUNK, PUT_END, PutImage, PutImageResult, PutOutcome,
};
use vsr_types::{Header, Nonce};

use super::{InitError, InitRefusal};
use crate::tool::Tool;

/// How many chunks are on their way to a replica at most.
const AHEAD: u64 = 16;
/// Between two questions whether everything is verified.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Where chunks come from.
pub trait ImageSource {
    /// What they are the state of.
    fn offer(&self) -> ImageOffer;

    /// The next chunk, from the first to the last; none after that.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written.
    fn next_chunk(&mut self) -> io::Result<Option<(u64, &[u8])>>;
}

pub(super) async fn bring(
    tools: &mut [Tool],
    token: Nonce,
    within: Duration,
    source: &mut impl ImageSource,
    mut progress: impl FnMut(u64),
) -> Result<(), InitError> {
    announce(tools, token, within, &source.offer()).await?;
    while let Some((chunk, bytes)) = source.next_chunk().map_err(InitError::Source)? {
        let header = part(token, chunk, PUT_CHUNK, bytes);
        let mut silent = Vec::new();
        for tool in &mut *tools {
            let sent = async {
                let put = tool.connection().send(&header, bytes);
                timed(within, put).await?;
                match chunk.checked_sub(AHEAD) {
                    Some(behind) => expect(tool, token, behind + 1, within).await,
                    None => Ok(()),
                }
            };
            if let Err(why) = sent.await {
                silent.push((tool.connection().endpoint().to_owned(), why));
            }
        }
        if !silent.is_empty() {
            return Err(InitError::NotBrought(silent));
        }
        progress(chunk + 1);
    }
    verify(tools, token, within, source.offer().chunks).await
}

async fn announce(
    tools: &mut [Tool],
    token: Nonce,
    within: Duration,
    offer: &ImageOffer,
) -> Result<(), InitError> {
    let body = bytemuck::bytes_of(offer);
    let header = part(token, 0, PUT_BEGIN, body);
    let (mut refused, mut silent) = (Vec::new(), Vec::new());
    for tool in tools {
        let endpoint = tool.connection().endpoint().to_owned();
        let sent = timed(within, tool.connection().send(&header, body)).await;
        let answer = match sent {
            Ok(()) => result(tool, token, within).await,
            Err(why) => Err(why),
        };
        match answer.map(|result| PutOutcome::from_raw(result.outcome)) {
            Ok(Some(PutOutcome::Taken)) => {}
            Ok(Some(outcome)) => refused.push((endpoint, InitRefusal::Image(outcome))),
            Ok(None) => silent.push((endpoint, "an unknown answer".to_owned())),
            Err(why) => silent.push((endpoint, why)),
        }
    }
    if !refused.is_empty() {
        return Err(InitError::Refused(refused));
    }
    if !silent.is_empty() {
        return Err(InitError::Unreachable(silent));
    }
    Ok(())
}

/// Reads answers until `count` chunks are known to have been taken.
async fn expect(tool: &mut Tool, token: Nonce, count: u64, within: Duration) -> Result<(), String> {
    loop {
        let result = result(tool, token, within).await?;
        match PutOutcome::from_raw(result.outcome) {
            Some(PutOutcome::Taken) if result.next >= count => return Ok(()),
            Some(PutOutcome::Taken) => {}
            Some(refusal) => return Err(InitRefusal::Image(refusal).to_string()),
            None => return Err("an unknown answer".to_owned()),
        }
    }
}

/// Waits until every replica has verified what it has.
async fn verify(
    tools: &mut [Tool],
    token: Nonce,
    within: Duration,
    chunks: u64,
) -> Result<(), InitError> {
    let header = part(token, 0, PUT_END, &[]);
    let mut silent = Vec::new();
    for tool in tools {
        let verified = async {
            loop {
                timed(within, tool.connection().send(&header, &[])).await?;
                let result = loop {
                    let result = result(tool, token, within).await?;
                    if result.kind == PUT_END || result.outcome != PutOutcome::Taken as u32 {
                        break result;
                    }
                };
                match PutOutcome::from_raw(result.outcome) {
                    Some(PutOutcome::Verified) if result.next == chunks => return Ok(()),
                    // However long it takes: it answers.
                    Some(PutOutcome::Verifying) => sleep(LOOK_AGAIN).await,
                    Some(refusal) => return Err(InitRefusal::Image(refusal).to_string()),
                    None => return Err("an unknown answer".to_owned()),
                }
            }
        };
        if let Err(why) = verified.await {
            silent.push((tool.connection().endpoint().to_owned(), why));
        }
    }
    match silent.is_empty() {
        true => Ok(()),
        false => Err(InitError::NotBrought(silent)),
    }
}

/// The next answer that belongs to this image.
async fn result(tool: &mut Tool, token: Nonce, within: Duration) -> Result<PutImageResult, String> {
    loop {
        let frame = timed(within, tool.connection().receive()).await?;
        let result = frame.fields::<PutImageResult>();
        if let Some(result) = result.filter(|result| result.token == token) {
            return Ok(*result);
        }
    }
}

async fn timed<T, E: core::fmt::Display>(
    within: Duration,
    what: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(within, what).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("it is connected, but gave no answer in time".to_owned()),
    }
}

fn part(token: Nonce, chunk: u64, kind: u32, body: &[u8]) -> Header {
    let mut header = Header::new(PutImage {
        token,
        chunk,
        kind,
        ..PutImage::zeroed()
    });
    header.seal(body);
    header
}

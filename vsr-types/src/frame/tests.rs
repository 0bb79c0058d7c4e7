//! What the door lets in, and what it does not.

use bytemuck::Zeroable;

use super::*;
use crate::message::{Commit, Ping, Prepare, Request as RequestMessage};
use crate::{ClientId, Epoch, Operation, RequestHeader, RequestNumber, SessionNumber};

const CLUSTER: ClusterId = ClusterId::new(0xC1);

fn frame<M: Message>(fields: M, body: &[u8], buffer: &mut [u8; 512]) -> usize {
    let mut header = Header::new(fields);
    header.set_cluster(CLUSTER);
    header.seal(body);
    buffer[..HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(&header));
    buffer[HEADER_SIZE..header.size()].copy_from_slice(body);
    header.size()
}

fn request_frame(operation: &[u8], buffer: &mut [u8; 512]) -> usize {
    let mut request = RequestHeader::new(
        Operation::Apply,
        ClientId::new(5),
        Epoch::ZERO,
        SessionNumber::new(1),
        RequestNumber::new(1),
    );
    request.seal(operation);
    let mut header = Header::new(RequestMessage::zeroed());
    header.set_cluster(CLUSTER);
    header.seal_with(request.size(), request.checksum());
    buffer[..HEADER_SIZE].copy_from_slice(bytemuck::bytes_of(&header));
    buffer[HEADER_SIZE..HEADER_SIZE + 56].copy_from_slice(bytemuck::bytes_of(&request));
    buffer[HEADER_SIZE + 56..header.size()].copy_from_slice(operation);
    header.size()
}

#[test]
fn what_was_sealed_is_parsed() {
    let mut buffer = [0; 512];
    let size = frame(Prepare::zeroed(), b"some body", &mut buffer);
    assert_eq!(Frame::peek(&buffer[..127], 512), Ok(None));
    assert_eq!(Frame::peek(&buffer, 512), Ok(Some(size)));
    let parsed = Frame::parse(&buffer[..size], CLUSTER).expect("a good frame");
    assert_eq!(parsed.command(), Command::Prepare);
    assert_eq!(parsed.body(), b"some body");
    assert!(parsed.fields::<Prepare>().is_some());
    assert!(
        parsed.fields::<Commit>().is_none(),
        "a prepare is no commit"
    );
}

#[test]
fn every_flipped_bit_is_refused() {
    let mut buffer = [0; 512];
    let sizes = [
        frame(Prepare::zeroed(), b"some body", &mut buffer),
        request_frame(b"some operation", &mut [0; 512]),
    ];
    for (kind, size) in sizes.into_iter().enumerate() {
        let mut bytes = [0; 512];
        let made = match kind {
            0 => frame(Prepare::zeroed(), b"some body", &mut bytes),
            _ => request_frame(b"some operation", &mut bytes),
        };
        assert_eq!(made, size);
        assert!(Frame::parse(&bytes[..size], CLUSTER).is_ok());
        for bit in 0..size * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                Frame::parse(&bytes[..size], CLUSTER).is_err(),
                "bit {bit} of kind {kind}"
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn every_truncation_is_refused() {
    let mut buffer = [0; 512];
    let size = frame(Prepare::zeroed(), b"some body", &mut buffer);
    for length in 0..size {
        assert_eq!(
            Frame::parse(&buffer[..length], CLUSTER).err(),
            Some(FrameError::Truncated)
        );
    }
    assert_eq!(
        Frame::parse(&buffer[..=size], CLUSTER).err(),
        Some(FrameError::Truncated)
    );
}

#[test]
fn another_clusters_messages_are_refused_unless_they_belong_to_none() {
    let mut buffer = [0; 512];
    let other = ClusterId::new(0xC2);
    let size = frame(Prepare::zeroed(), b"", &mut buffer);
    assert_eq!(
        Frame::parse(&buffer[..size], other).err(),
        Some(FrameError::Cluster)
    );
    let size = frame(Ping::zeroed(), b"", &mut buffer);
    assert!(
        Frame::parse(&buffer[..size], other).is_ok(),
        "a ping tells a blank replica"
    );
}

#[test]
fn a_frame_larger_than_accepted_is_refused_before_its_body_is_read() {
    let mut buffer = [0; 512];
    let size = frame(Prepare::zeroed(), &[7; 300], &mut buffer);
    assert_eq!(
        Frame::peek(&buffer[..HEADER_SIZE], 400),
        Err(FrameError::Size { size: size as u32 })
    );
}

#[test]
fn an_unknown_command_or_version_is_named() {
    let mut header = Header::new(Commit::zeroed());
    header.set_cluster(CLUSTER);
    let bytes = bytemuck::bytes_of_mut(&mut header);
    bytes[126] = 200;
    header.seal(&[]);
    assert_eq!(
        Frame::parse(bytemuck::bytes_of(&header), CLUSTER).err(),
        Some(FrameError::Command { command: 200 })
    );
    let bytes = bytemuck::bytes_of_mut(&mut header);
    bytes[124] = 99;
    header.seal(&[]);
    assert_eq!(
        Frame::parse(bytemuck::bytes_of(&header), CLUSTER).err(),
        Some(FrameError::Protocol { protocol: 99 })
    );
}

#[test]
fn a_request_frame_holds_exactly_one_request() {
    let mut buffer = [0; 512];
    let size = request_frame(b"op", &mut buffer);
    let parsed = Frame::parse(&buffer[..size], CLUSTER).expect("a good frame");
    let request = parsed.request().expect("a request");
    assert_eq!(request.operation(), b"op");
    assert!(request.is_intact());
    // Another kind of message is none, whatever its body.
    let size = frame(Prepare::zeroed(), &[0; 64], &mut buffer);
    assert!(
        Frame::parse(&buffer[..size], CLUSTER)
            .expect("good")
            .request()
            .is_none()
    );
}

//! Frames that were not sent, or not like this: changed and sealed again, so that nothing but the
//! replica itself can refuse them.

use vsr_types::{HEADER_SIZE, Header, Message};

/// The header of a frame.
pub fn header_of(bytes: &[u8]) -> Header {
    bytemuck::pod_read_unaligned(&bytes[..HEADER_SIZE])
}

/// The frame with another header, sealed.
pub fn forge(bytes: &[u8], change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = header_of(bytes);
    let body = &bytes[HEADER_SIZE..];
    change(&mut header);
    header.seal(body);
    [bytemuck::bytes_of(&header), body].concat()
}

/// The frame with other fields, sealed.
pub fn forge_fields<M: Message>(bytes: &[u8], change: impl FnOnce(&mut M)) -> Vec<u8> {
    let old = header_of(bytes);
    let mut fields: M = *old.fields().expect("a frame of this kind");
    change(&mut fields);
    let mut header = Header::new(fields);
    header.set_cluster(old.cluster());
    header.set_sender(old.replica(), old.member(), old.incarnation());
    header.set_epoch(old.epoch());
    header.set_view(old.view());
    header.set_route(old.route().expect("a sound route"));
    let body = &bytes[HEADER_SIZE..];
    header.seal(body);
    [bytemuck::bytes_of(&header), body].concat()
}

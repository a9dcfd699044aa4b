//! What the agent reads of a shim, and a shim of its agent.

#[allow(dead_code, reason = "the targets read; the shim has more to say")]
#[path = "../../../crates/grid-platform-process/shim/shared/mod.rs"]
mod shared;

use shared::launch::Launch;
use shared::record::{self, SLOT, Stored};
use shared::words::{Answer, Report, Request};

/// A record file of any bytes is read or refused, and what is read is written as it was read. Bytes behind a header of
/// their own are what a text under a good checksum is.
pub fn record(bytes: &[u8]) {
    if let Some(stored) = record::read(bytes) {
        comes_back(&stored);
    }
    let text = &bytes[..bytes.len().min(SLOT - 24)];
    let seq = text.len() as u64;
    let mut slot = vec![0; SLOT];
    slot[..8].copy_from_slice(b"SGRECRD1");
    slot[8..16].copy_from_slice(&seq.to_le_bytes());
    slot[16..20].copy_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
    slot[24..24 + text.len()].copy_from_slice(text);
    let crc = crc32fast::hash(&[&slot[8..20], text].concat());
    slot[20..24].copy_from_slice(&crc.to_le_bytes());
    let Some(stored) = record::read(&slot) else {
        return;
    };
    assert_eq!(stored.seq, seq);
    comes_back(&stored);
    // A bit that turns over anywhere in what is covered spoils the slot.
    let bit = crc as usize % ((24 + text.len()) * 8);
    slot[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(record::read(&slot), None, "bit {bit}");
}

fn comes_back(stored: &Stored) {
    // A text that leaves out what has a default may be too long when nothing is left out.
    if let Some((_, slot)) = stored.record.encode(stored.seq) {
        assert_eq!(record::read(&slot).as_ref(), Some(stored));
    }
}

/// A launch file of any bytes is read or refused, and what is read is written as it was read. Pairs behind a head and
/// before an end of their own are what a file under a good checksum is.
pub fn launch(bytes: &[u8]) {
    let mut framed = [b"sutra-grid-launch\x001\0", bytes].concat();
    let crc = crc32fast::hash(&framed);
    framed.extend_from_slice(format!("end\0{crc:08x}\0").as_bytes());
    for file in [bytes, framed.as_slice()] {
        if let Ok(launch) = Launch::decode(file) {
            let written = launch.encode().expect("what was read can be written");
            assert_eq!(Launch::decode(&written), Ok(launch));
        }
    }
    // A bit that turns over anywhere spoils the file.
    let bit = crc as usize % (framed.len() * 8);
    framed[bit / 8] ^= 1 << (bit % 8);
    assert!(Launch::decode(&framed).is_err(), "bit {bit}");
}

/// Lines of the report pipe and of the socket.
pub fn words(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Some(it) = Report::decode(line) {
        assert_eq!(Report::decode(it.encode().trim_end_matches('\n')), Some(it));
    }
    if let Some(it) = Request::decode(line) {
        assert_eq!(
            Request::decode(it.encode().trim_end_matches('\n')),
            Some(it)
        );
    }
    if let Some(it) = Answer::decode(line) {
        assert_eq!(Answer::decode(it.encode().trim_end_matches('\n')), Some(it));
    }
}

//! Bytes on the agents' address that are no gRPC.

use crate::{clients::raw, target::Target};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame (RFC 9113, 4.1) that says it has `length` bytes, with `payload` behind it.
fn frame(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn spoken(frames: &[Vec<u8>]) -> Vec<u8> {
    let settings = frame(0, 4, 0, 0, b"");
    [PREFACE, &settings, &frames.concat()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_http_2_is_cut_off() {
    let target = Target::quick().await;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("nonsense", vec![0xff; 4096]),
        (
            "a request of HTTP/1",
            b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        ),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a preface and silence", PREFACE.to_vec()),
        (
            "a frame beyond the limit",
            spoken(&[frame(0xff_ffff, 0, 0, 1, &[0; 1024])]),
        ),
        ("half a frame", spoken(&[frame(100, 1, 4, 1, b"short")])),
        (
            "data on a stream that is not open",
            spoken(&[frame(4, 0, 0, 7, b"data")]),
        ),
        (
            "headers that are no headers",
            spoken(&[frame(4, 1, 5, 1, &[0xff; 4])]),
        ),
        ("headers on stream 0", spoken(&[frame(1, 1, 5, 0, &[0x82])])),
        (
            "settings of a wrong length",
            spoken(&[frame(5, 4, 0, 0, &[0; 5])]),
        ),
        ("a window of nothing", spoken(&[frame(4, 8, 0, 0, &[0; 4])])),
        (
            "a ping of a wrong length",
            spoken(&[frame(3, 6, 0, 0, &[0; 3])]),
        ),
        (
            "an unknown frame",
            spoken(&[frame(3, 99, 0xff, 5, &[1; 3])]),
        ),
        (
            "a flood of resets",
            spoken(
                &(0..5_000_u32)
                    .flat_map(|n| {
                        let stream = 2 * n + 1;
                        // `:method: POST`, `:scheme: http`, `:path: /` of the static table (RFC 7541, A).
                        [
                            frame(3, 1, 4, stream, &[0x83, 0x86, 0x84]),
                            frame(4, 3, 0, stream, &[0, 0, 0, 8]),
                        ]
                    })
                    .collect::<Vec<_>>(),
            ),
        ),
        (
            "a flood of pings",
            spoken(&vec![frame(8, 6, 0, 0, &[7; 8]); 20_000]),
        ),
        (
            "a flood of settings",
            spoken(&vec![frame(0, 4, 0, 0, b""); 20_000]),
        ),
        (
            "headers without end",
            spoken(
                &std::iter::once(frame(1, 1, 0, 1, &[0x82]))
                    .chain((0..5_000).map(|_| frame(3, 9, 0, 1, &[0x82; 3])))
                    .collect::<Vec<_>>(),
            ),
        ),
    ];
    let memory = target.memory("VmRSS");
    for (what, bytes) in cases {
        // It returns when the master closes the connection.
        let got = raw(target.grpc, &bytes).await;
        assert!(got.len() < 1 << 20, "{what}: {} bytes come back", got.len());
    }
    let grown = target.memory("VmRSS").saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes are left of it");
    target.must_be_unharmed().await;
}

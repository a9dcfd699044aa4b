//! gRPC whose messages are not what they should be.

use std::time::Duration;

use grid_proto::v1::{self, from_agent::Message as Said};
use tokio::time::timeout;
use tokio_util::bytes::{Buf, BufMut, Bytes};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::{
    support::{LONG, stream, with_token},
    target::{Target, honest},
};

/// Bytes as they are, in place of messages.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

const SESSION: &str = "/grid.v1.AgentLink/Session";

/// Calls `path` with this as the only message; how the call ends.
async fn call(
    target: &Target,
    token: &str,
    path: &'static str,
    message: Bytes,
) -> Result<(), Status> {
    let channel = Channel::from_shared(target.grid.grpc.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let request = with_token(token, tokio_stream::iter([message]));
    let calling = async {
        let mut answers = client
            .streaming(request, path.parse().unwrap(), Raw)
            .await?
            .into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    timeout(LONG, calling).await.expect("the call is left open")
}

fn explains(what: &str, status: &Status, codes: &[Code]) {
    assert!(codes.contains(&status.code()), "{what}: {status:?}");
    assert!(!status.message().is_empty(), "{what}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_hello_are_refused_with_a_hint() {
    let mut target = Target::quick().await;
    let token = target.agent_token().await;
    let hello = prost::Message::encode_to_vec(&v1::FromAgent {
        message: Some(Said::Hello(honest())),
    });
    let cut = Bytes::copy_from_slice(&hello[..hello.len() / 2]);
    let beat = prost::Message::encode_to_vec(&v1::FromAgent {
        message: Some(Said::Heartbeat(v1::Heartbeat { sequence: 1 })),
    });
    // Field 1 as a number, where a message belongs; a length beyond the end; a group that never ends; field 0.
    let cases: Vec<(&str, Bytes)> = vec![
        ("nonsense", Bytes::from(vec![0xff; 64])),
        ("a truncated hello", cut),
        ("a wrong wire type", Bytes::from_static(&[0x08, 0x05])),
        (
            "a length beyond the end",
            Bytes::from_static(&[0x0a, 0x7f, 0x01]),
        ),
        ("a group without an end", Bytes::from_static(&[0x0b])),
        ("field 0", Bytes::from_static(&[0x00, 0x01])),
        ("an empty message", Bytes::new()),
        ("another message first", Bytes::from(beat)),
        (
            "what only a newer version knows",
            Bytes::from_static(&[0xfa, 0x07, 0x01, 0x61]),
        ),
    ];
    for (what, message) in cases {
        let status = call(&target, &token, SESSION, message).await.unwrap_err();
        explains(what, &status, &[Code::InvalidArgument]);
        assert!(status.message().contains("hint: "), "{what}: {status:?}");
    }
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_in_one_message_are_refused_unread() {
    let mut target = Target::quick().await;
    let token = target.agent_token().await;
    let memory = target.memory("VmHWM");
    let message = Bytes::from(vec![0; 100 << 20]);
    let status = call(&target, &token, SESSION, message).await.unwrap_err();
    explains(
        "100 MB",
        &status,
        &[
            Code::InvalidArgument,
            Code::OutOfRange,
            Code::ResourceExhausted,
            // Who goes on sending may meet the end of the connection before it reads the refusal.
            Code::Unknown,
        ],
    );
    let grown = target.memory("VmHWM") - memory;
    assert!(grown < 32 << 20, "it cost {grown} bytes");
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_do_not_exist_and_calls_that_say_nothing_end() {
    let mut target = Target::quick().await;
    let token = target.agent_token().await;
    for path in [
        "/grid.v1.AgentLink/Nothing",
        "/grid.v2.AgentLink/Session",
        "/x",
    ] {
        let status = call(&target, &token, path, Bytes::new()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    // Open, and not a word.
    let mut client = v1::agent_link_client::AgentLinkClient::connect(target.grid.grpc.clone())
        .await
        .unwrap();
    let (_sender, receiver) = tokio::sync::mpsc::channel(1);
    let calling = client.session(with_token(&token, stream(receiver)));
    let status = timeout(LONG, calling)
        .await
        .expect("the call is left open")
        .map(drop)
        .unwrap_err();
    explains("silence", &status, &[Code::DeadlineExceeded]);
    assert!(status.message().contains("hint: "), "{status:?}");
    drop(client);
    target.must_be_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_on_one_connection_starve_no_heartbeat() {
    let mut target = Target::start().await;
    let token = target.agent_token().await;
    let client = v1::agent_link_client::AgentLinkClient::connect(target.grid.grpc.clone())
        .await
        .unwrap();
    let mut open = Vec::new();
    for _ in 0..300 {
        let (mut client, token) = (client.clone(), token.clone());
        open.push(tokio::spawn(async move {
            let (_sender, receiver) = tokio::sync::mpsc::channel(1);
            let call = client.session(with_token(&token, stream(receiver)));
            timeout(Duration::from_secs(2), call).await.is_ok()
        }));
    }
    target.get("/api/grid/nodes").await;
    for call in open {
        call.await.unwrap();
    }
    drop(client);
    target.must_be_unharmed().await;
}

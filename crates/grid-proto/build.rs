//! Compiles the wire contract with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = "../../proto";
    println!("cargo:rerun-if-changed={root}");
    let files = protox::compile(["grid/v1/agent.proto"], [root])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}

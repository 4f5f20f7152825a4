//! Compiles the protocol in pure Rust, so that a clean clone builds without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/croft/v1/fleet.proto", "proto/croft/v1/farm.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}

//! Reads an archive as a container runtime does.

use std::{collections::BTreeMap, io::Read};

use anyhow::ensure;
use flate2::read::GzDecoder;

use super::*;

/// Files of an archive, by path, with their modes.
fn unpacked(bytes: &[u8]) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let header = entry.header();
        ensure!(header.entry_type().is_file(), "{:?}", header.entry_type());
        ensure!((header.mtime()?, header.uid()?, header.gid()?) == (0, 0, 0), "{header:?}");
        let (path, mode) = (entry.path()?.display().to_string(), header.mode()?);
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, (mode, content));
    }
    Ok(files)
}

/// What a descriptor points to, whose digest and size are as it says.
fn pointed(files: &BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value) -> Result<Vec<u8>> {
    let digest = descriptor["digest"].as_str().context("no digest")?;
    let name = digest.strip_prefix("sha256:").context("not SHA-256")?;
    let (_, bytes) = files.get(&format!("blobs/sha256/{name}")).context("no such blob")?;
    ensure!(hex(bytes) == name && descriptor["size"] == bytes.len(), "{descriptor}");
    Ok(bytes.clone())
}

#[test]
fn an_archive_leads_from_its_index_to_the_program() -> Result<()> {
    let program = b"a program".repeat(1000);
    let image = Image::of(&program, Architecture::Amd64)?;
    let files = unpacked(&image.archive()?)?;
    assert_eq!(files["oci-layout"].1, br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index: Value = serde_json::from_slice(&files["index.json"].1)?;
    let entry = &index["manifests"][0];
    assert_eq!(entry["annotations"]["io.containerd.image.name"], NAME);
    assert_eq!(entry["platform"]["architecture"], "amd64");
    assert_eq!(entry["digest"], image.digest());

    let manifest: Value = serde_json::from_slice(&pointed(&files, entry)?)?;
    let config: Value = serde_json::from_slice(&pointed(&files, &manifest["config"])?)?;
    assert_eq!(config["config"]["Entrypoint"], json!(["/lb-agent"]));
    assert_eq!(config["config"]["User"], "65534:65534");
    let layer = pointed(&files, &manifest["layers"][0])?;
    let mut content = Vec::new();
    GzDecoder::new(layer.as_slice()).read_to_end(&mut content)?;
    assert_eq!(config["rootfs"]["diff_ids"], json!([digest(&content)]));
    assert_eq!(unpacked(&content)?, [("lb-agent".to_owned(), (0o755, program))].into());

    // As `docker load` goes.
    let docker: Value = serde_json::from_slice(&files["manifest.json"].1)?;
    let path = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(docker[0]["RepoTags"], json!([NAME]));
    assert_eq!(files[&path(&docker[0]["Layers"][0])].1, layer);
    assert_eq!(serde_json::from_slice::<Value>(&files[&path(&docker[0]["Config"])].1)?, config);
    Ok(())
}

#[test]
fn of_the_same_program_the_archive_is_the_same() -> Result<()> {
    let archive = |program: &[u8]| Image::of(program, Architecture::Arm64)?.archive();
    assert_eq!(archive(b"one")?, archive(b"one")?);
    assert_ne!(archive(b"one")?, archive(b"two")?);
    Ok(())
}

#[test]
fn what_needs_a_dynamic_linker_is_refused() -> Result<()> {
    // This test itself is linked dynamically.
    let program = std::fs::read(std::env::current_exe()?)?;
    let error = Architecture::of(&program).err().context("it is taken")?;
    assert!(error.to_string().contains("not linked statically"), "{error}");
    assert!(Architecture::of(b"#!/bin/sh\n").is_err());
    Ok(())
}

//! A container image of one program, as an OCI archive (image-spec 1.1: `image-layout.md`, `manifest.md`, `config.md`). Of the same program
//! it is the same to the byte.

use std::io::Write;

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use object::{
    Architecture as Machine, Endianness, FileKind,
    elf::{FileHeader64, PT_INTERP},
    read::elf::{FileHeader, ProgramHeader},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The image's name, as `manifests/` has it. No registry has it: it is imported, or pushed under another name.
pub const NAME: &str = concat!("magnetite.io/lb-agent:", env!("CARGO_PKG_VERSION"));

/// The agent's program in the image.
const PROGRAM: &str = "lb-agent";
/// Nobody, unless a pod says otherwise.
const USER: &str = "65534:65534";

/// For which machines a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
}

impl Architecture {
    /// Of a program that needs nothing but the kernel.
    ///
    /// # Errors
    /// It is none, is for other machines, or needs a dynamic linker: there is none in the image.
    pub fn of(program: &[u8]) -> Result<Self> {
        if FileKind::parse(program).ok() != Some(FileKind::Elf64) {
            bail!("it is no program for 64-bit Linux");
        }
        let header = FileHeader64::<Endianness>::parse(program)?;
        let endian = header.endian()?;
        let segments = header.program_headers(endian, program)?;
        if segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP) {
            bail!("it is not linked statically: the image has no dynamic linker");
        }
        let machine = object::File::parse(program).map(|file| object::Object::architecture(&file))?;
        match machine {
            Machine::X86_64 => Ok(Self::Amd64),
            Machine::Aarch64 => Ok(Self::Arm64),
            other => bail!("it is for {other:?}"),
        }
    }

    /// As image-spec has it, which is Go's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
    architecture: Architecture,
}

impl Image {
    /// With the agent, and nothing else.
    ///
    /// # Errors
    /// It cannot be packed.
    pub fn of(agent: &[u8], architecture: Architecture) -> Result<Self> {
        let labels = json!({
            "org.opencontainers.image.title": "Magnetite",
            "org.opencontainers.image.description": "A load balancer for Kubernetes on one's own machines",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
        });
        Self::pack(NAME, PROGRAM, agent, architecture, &labels)
    }

    /// With another program of this file name, and nothing else: for tests.
    ///
    /// # Errors
    /// It cannot be packed.
    pub fn of_other(name: &str, file: &str, program: &[u8], architecture: Architecture) -> Result<Self> {
        Self::pack(name, file, program, architecture, &json!({}))
    }

    fn pack(
        name: &str,
        file: &str,
        program: &[u8],
        architecture: Architecture,
        labels: &Value,
    ) -> Result<Self> {
        let files = tar_of([(file.to_owned(), program, 0o755)])?;
        let layer = compressed(&files)?;
        let config = serde_json::to_vec(&json!({
            "architecture": architecture.name(),
            "os": "linux",
            "config": {"User": USER, "Entrypoint": [format!("/{file}")], "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [digest(&files)]},
        }))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
            "annotations": labels,
        }))?;
        Ok(Self { name: name.to_owned(), layer, config, manifest, architecture })
    }

    /// By which a registry knows it.
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// As one file: an OCI image layout, and what `docker load` wants to find in it.
    ///
    /// # Errors
    /// It cannot be packed.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut manifest = descriptor(MANIFEST, &self.manifest);
        manifest["platform"] = json!({"architecture": self.architecture.name(), "os": "linux"});
        // The first is what the layout has, the second is containerd's, which takes the first for a tag alone.
        manifest["annotations"] =
            json!({"org.opencontainers.image.ref.name": self.name, "io.containerd.image.name": self.name});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        let docker =
            json!([{"Config": blob(&self.config), "RepoTags": [self.name], "Layers": [blob(&self.layer)]}]);
        let layout = json!({"imageLayoutVersion": "1.0.0"});
        let texts = [index, docker, layout].map(|value| value.to_string().into_bytes());
        let [index, docker, layout] = &texts;
        let mut files = vec![
            ("index.json".to_owned(), index.as_slice(), 0o644),
            ("manifest.json".to_owned(), docker.as_slice(), 0o644),
            ("oci-layout".to_owned(), layout.as_slice(), 0o644),
        ];
        for bytes in [&self.layer, &self.config, &self.manifest] {
            files.push((blob(bytes), bytes.as_slice(), 0o644));
        }
        files.sort();
        tar_of(files)
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Regular files of root, from the beginning of time.
fn tar_of<'a>(files: impl IntoIterator<Item = (String, &'a [u8], u32)>) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len().try_into()?);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, &path, bytes).with_context(|| path.clone())?;
    }
    Ok(builder.into_inner()?)
}

/// Without a time and a name.
fn compressed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn blob(bytes: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

#[cfg(test)]
mod tests;

//! The program and the pods of `manifests/base`.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

#[test]
fn the_arguments_of_pods_are_known() -> Result<(), Box<dyn std::error::Error>> {
    for file in ["controller.yaml", "speaker.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base").join(file);
        let object: Value = serde_saphyr::from_str(&fs::read_to_string(path)?)?;
        let arguments = object.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array);
        let arguments: Vec<&str> = arguments.into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(!arguments.is_empty(), "{file} has none");
        // It says first what is wrong with those before.
        let output = Command::new(env!("CARGO_BIN_EXE_lb-agent")).args(arguments).arg("--help").output()?;
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

//! A BPF object without loading it: programs, their length and stack, and panics that could be reached.

use anyhow::{Context, Result};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

/// A function of the object that the kernel is given.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Instructions.
    pub instructions: usize,
    /// Bytes of its own stack frame.
    pub stack: u32,
}

/// What there is to see in an object.
#[derive(Debug)]
pub struct ObjectFile {
    /// Functions in the order of their names.
    pub functions: Vec<Function>,
    /// Symbols of `core::panicking`: a panic can be reached.
    pub panics: Vec<String>,
}

impl ObjectFile {
    /// Reads an object.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let file = object::File::parse(bytes).context("not an ELF object")?;
        let mut functions = Vec::new();
        let mut panics = Vec::new();
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            if name.contains("panicking") {
                panics.push(name.to_owned());
            }
            let Some(section) = symbol.section_index().and_then(|index| file.section_by_index(index).ok())
            else {
                continue;
            };
            if symbol.kind() != SymbolKind::Text || symbol.size() == 0 {
                continue;
            }
            let start = symbol.address() as usize;
            let code = section.data()?.get(start..start + symbol.size() as usize);
            let code = code.with_context(|| format!("symbol {name} reaches beyond its section"))?;
            functions.push(Function {
                name: name.to_owned(),
                instructions: code.len() / 8,
                stack: stack(code),
            });
        }
        functions.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { functions, panics })
    }
}

/// The frame pointer.
const R10: u8 = 10;

/// The lowest place below the frame pointer that the code names.
fn stack(code: &[u8]) -> u32 {
    let mut lowest = 0_i32;
    let mut copy_of_r10 = None;
    for instruction in code.chunks_exact(8) {
        let (opcode, destination, source) = (instruction[0], instruction[1] & 15, instruction[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([instruction[2], instruction[3]]));
        let immediate = i32::from_le_bytes([instruction[4], instruction[5], instruction[6], instruction[7]]);
        let below = match opcode {
            // r = r10; r += immediate
            0x07 if copy_of_r10 == Some(destination) => immediate,
            _ => match opcode & 7 {
                1 if source == R10 => offset,
                2 | 3 if destination == R10 => offset,
                _ => 0,
            },
        };
        lowest = lowest.min(below);
        copy_of_r10 = (opcode == 0xbf && source == R10).then_some(destination);
    }
    lowest.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::stack;

    #[test]
    fn stack_is_the_lowest_place_named() {
        // *(u32 *)(r10 - 40) = r1; r2 = r10; r2 += -64; r1 = *(u64 *)(r10 - 8)
        let code = [
            [0x63, 0x1a, 0xd8, 0xff, 0, 0, 0, 0],
            [0xbf, 0xa2, 0, 0, 0, 0, 0, 0],
            [0x07, 0x02, 0, 0, 0xc0, 0xff, 0xff, 0xff],
            [0x79, 0xa1, 0xf8, 0xff, 0, 0, 0, 0],
        ];
        assert_eq!(stack(&code.concat()), 64);
        assert_eq!(stack(&code[3]), 8);
        assert_eq!(stack(&[0x07, 0x02, 0, 0, 0xc0, 0xff, 0xff, 0xff]), 0, "not a copy of the frame pointer");
    }
}

//! tmp
use anyhow::Result;
use magnetite_tests::{lab::Lab, scenarios::ALL};
fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap();
    let times: u32 = std::env::args().nth(2).unwrap().parse().unwrap();
    let scenario = ALL.iter().find(|s| s.name == name).unwrap();
    let mut lab = Lab::up()?;
    for i in 0..times {
        let outcome = (scenario.run)(&mut lab)?;
        println!(
            "{i} {} {}",
            outcome.has_passed(),
            if outcome.has_passed() { String::new() } else { outcome.happened() }
        );
        if !outcome.has_passed() {
            println!("kept; pid {}", std::process::id());
            std::thread::sleep(std::time::Duration::from_secs(600));
            break;
        }
    }
    Ok(())
}

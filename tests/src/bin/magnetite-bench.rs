//! What a packet costs: the data path's programs against one that drops everything and one that balances without state, in one
//! interleaved run. The machine's noise is in all of them alike, so read the ratios.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, ProgramArray},
    programs::{ProgramFd, TestRun, TestRunOptions, Xdp},
};
use clap::Parser;
use lb_agent::dataplane::{Dataplane, EgressMode, Entry, LinkMode, Options};
use lb_common::{
    Reason,
    hash::HashKey,
    layout::{
        Addr, Backend, CANDIDATES, Config, Mac, NO_CANDIDATE, Port, Row, Service, ServiceId, ServiceKey,
        backend_state,
    },
    packet::protocol,
};
use lb_core::maps::{Op, Sizes};
use magnetite_tests::{
    fixture,
    frames::{self, Flags, Way},
};

/// What a packet costs, as ratios in one interleaved run. Needs root.
///
/// Each figure is measured at 1, 4,096 and 65,536 flows, except new-flow: what was seen once is not new, so each of its packets is of a
/// flow that was never seen. It is compared with the floor at 65,536 flows.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// One JSON object a line and figure: figure, flows, value, unit, and ratio and of where it is compared.
    #[arg(long)]
    json: bool,
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Port whose backends are all on the peer, and one whose backends are all here.
const PEER_PORT: u16 = 90;
const HERE_PORT: u16 = 91;
const BACKENDS: u32 = 100;
const ROWS: u32 = 65_536;
/// Bytes of a frame.
const FRAME: usize = 96;
const FLOWS: [u32; 3] = [1, 4_096, 65_536];
/// Packets of a measurement, at least one of each flow.
const PACKETS: u32 = 65_536;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut bench = Bench::new()?;
    let mut cases = cases();
    for case in &cases {
        bench.check(case)?;
    }
    for round in 0..arguments.rounds {
        if !arguments.json {
            eprintln!("bench: round {}/{}", round + 1, arguments.rounds);
        }
        for case in &mut cases {
            let time = bench.measure(case)?;
            case.times.push(time);
        }
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    eprintln!("bench: load of the machine {}", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    report(&cases, arguments.json);
    Ok(())
}

struct Case {
    figure: &'static str,
    program: Program,
    flows: u32,
    frame: [u8; FRAME],
    /// What makes the flows known before: a frame of each.
    before: Option<[u8; FRAME]>,
    /// What most packets are counted as.
    reason: Option<Reason>,
    times: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Program {
    Drop,
    Floor,
    Magnetite,
}

/// Every packet is of a flow that was never seen.
const ALWAYS_NEW: u32 = 1 << 24;

fn cases() -> Vec<Case> {
    let syn = |port| frame(fixture::VIP4.into(), port, Flags::SYN);
    let ack = |port| frame(fixture::VIP4.into(), port, Flags::ACK);
    let case = |figure, program, flows, frame, before, reason| Case {
        figure,
        program,
        flows,
        frame,
        before,
        reason,
        times: Vec::new(),
    };
    let mut cases = Vec::new();
    for flows in FLOWS {
        use Program::{Drop, Floor, Magnetite};
        let forwarded = Some(Reason::FlowForwarded);
        let delivered = Some(Reason::ConnDelivered);
        cases.push(case("drop", Drop, flows, ack(PEER_PORT), None, None));
        cases.push(case("floor", Floor, flows, ack(PEER_PORT), None, None));
        cases.push(case(
            "established-forwarded",
            Magnetite,
            flows,
            ack(PEER_PORT),
            Some(syn(PEER_PORT)),
            forwarded,
        ));
        cases.push(case(
            "established-here",
            Magnetite,
            flows,
            ack(HERE_PORT),
            Some(syn(HERE_PORT)),
            delivered,
        ));
        let other = frame(IpAddr::from([203, 0, 113, 9]), PEER_PORT, Flags::ACK);
        cases.push(case("not-a-vip", Magnetite, flows, other, None, Some(Reason::NotVip)));
    }
    let new = Some(Reason::NewForwarded);
    cases.push(case("new-flow", Program::Magnetite, ALWAYS_NEW, syn(PEER_PORT), None, new));
    let arp = padded(&frames::arp_request(fixture::CLIENT, fixture::CLIENT4, fixture::VIP4));
    // One flow: the frame is sent as it is.
    cases.push(case("arp-answer", Program::Magnetite, 1, arp, None, Some(Reason::ArpAnswered)));
    cases
}

fn frame(vip: IpAddr, port: u16, flags: Flags) -> [u8; FRAME] {
    let way = Way {
        macs: (fixture::CLIENT, fixture::NODE),
        addresses: (fixture::CLIENT4.into(), vip),
        ports: (40_000, port),
        ttl: 64,
    };
    padded(&frames::tcp(&way, flags, &[0; FRAME - 54]))
}

fn padded(bytes: &[u8]) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..bytes.len()].copy_from_slice(bytes);
    frame
}

struct Bench {
    dataplane: Dataplane,
    testing: Ebpf,
    targets: Vec<(Program, ProgramFd)>,
    pins: PathBuf,
}

impl Bench {
    fn new() -> Result<Self> {
        let pins = PathBuf::from(format!("/sys/fs/bpf/magnetite-bench-{}", std::process::id()));
        let sizes = Sizes { table: 1 << 18, backends: 1024, ..Sizes::default() };
        let mut dataplane =
            Dataplane::open(&Options { pin_dir: pins.clone(), sizes, egress: EgressMode::of_kernel() })?;
        dataplane.apply(&fixture::ops())?;
        dataplane.apply(&ops(&sizes))?;
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/magnetite-testing.o");
        let mut testing = EbpfLoader::new().load_file(path).with_context(|| format!("loading {path}"))?;
        fill_floor(&mut testing)?;
        let arrival = dataplane.program_fd(Entry::Arrival(LinkMode::Native))?;
        let mut targets = vec![(Program::Magnetite, arrival)];
        for (name, target) in
            [("drop", Some(Program::Drop)), ("floor", Some(Program::Floor)), ("drive", None)]
        {
            let program: &mut Xdp = testing.program_mut(name).context("the object has it")?.try_into()?;
            program.load()?;
            if let Some(target) = target {
                targets.push((target, program.fd()?.try_clone()?));
            }
        }
        Ok(Self { dataplane, testing, targets, pins })
    }

    /// Nanoseconds of a packet, driver included.
    fn measure(&mut self, case: &Case) -> Result<f64> {
        self.target(case.program)?;
        if let Some(before) = &case.before {
            self.send(before, case.flows, case.flows)?;
        }
        self.send(&case.frame, case.flows, PACKETS)
    }

    /// The case does what its name says.
    fn check(&mut self, case: &Case) -> Result<()> {
        let Some(reason) = case.reason else { return Ok(()) };
        self.target(case.program)?;
        if let Some(before) = &case.before {
            self.send(before, case.flows, case.flows)?;
        }
        let count = |bench: &mut Self| -> Result<u64> {
            Ok(bench.dataplane.tables().reasons()?.get(&reason).map_or(0, |count| count.packets))
        };
        let before = count(self)?;
        self.send(&case.frame, case.flows, PACKETS)?;
        let counted = count(self)? - before;
        ensure!(
            counted * 100 >= u64::from(PACKETS) * 95,
            "{} at {} flows: only {counted} of {PACKETS} packets were {}",
            case.figure,
            case.flows,
            reason.name()
        );
        Ok(())
    }

    fn target(&mut self, program: Program) -> Result<()> {
        let (_, fd) = self.targets.iter().find(|(known, _)| *known == program).context("it is loaded")?;
        let map = self.testing.map_mut("PROGRAMS").context("the object has it")?;
        Ok(ProgramArray::try_from(map)?.set(0, fd, 0)?)
    }

    fn send(&mut self, frame: &[u8; FRAME], flows: u32, packets: u32) -> Result<f64> {
        let mut traffic = [0; TRAFFIC];
        traffic[..FRAME].copy_from_slice(frame);
        traffic[FRAME..FRAME + 4].copy_from_slice(&(flows - 1).to_ne_bytes());
        let map = self.testing.map_mut("TRAFFIC").context("the object has it")?;
        let mut map: Array<_, [u8; TRAFFIC]> = Array::try_from(map)?;
        if flows == ALWAYS_NEW {
            let known = map.get(&0, 0)?;
            traffic[FRAME + 4..].copy_from_slice(&known[FRAME + 4..]);
        }
        map.set(0, traffic, 0)?;
        let driver: &mut Xdp = self.testing.program_mut("drive").context("the object has it")?.try_into()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = packets;
        let result = driver.test_run(options)?;
        ensure!(result.return_value != 0, "the driver found no program to call");
        Ok(result.duration.as_nanos() as f64)
    }
}

/// Bytes of the driver's `Traffic`.
const TRAFFIC: usize = FRAME + 8;

impl Drop for Bench {
    fn drop(&mut self) {
        // The maps live as long as they are open.
        let _ = fs::remove_dir_all(&self.pins);
    }
}

/// Two services with 100 backends each, beside the fixture's.
fn ops(sizes: &Sizes) -> Vec<Op> {
    let mut ops = Vec::new();
    for op in fixture::ops() {
        if let Op::SetConfig(config) = op {
            ops.push(Op::SetConfig(Config { flow_lines: sizes.flow_lines, tick_shift: 8, ..config }));
        }
    }
    for (number, (port, node)) in (0_u32..).zip([(PEER_PORT, 1), (HERE_PORT, 0)]) {
        let (table_offset, backend_offset) = ((number + 1) * ROWS, 512 + number * BACKENDS);
        let backends = (0..BACKENDS).map(|index| Backend {
            address: IpAddr::from([10, 1, number as u8, index as u8]).into(),
            port: Port::new(fixture::POD_PORT),
            node,
            state: backend_state::READY,
            generation: 1,
            pad: 0,
            since: 0,
        });
        ops.push(Op::WriteBackends { offset: backend_offset, backends: backends.collect() });
        let rows = (0..ROWS).map(|slot| {
            let mut candidates = [NO_CANDIDATE; CANDIDATES];
            candidates[0] = (slot % BACKENDS) as u16;
            Row { candidates }
        });
        ops.push(Op::WriteRows { offset: table_offset, rows: rows.collect() });
        let service = Service {
            id: ServiceId::new(60 + number as u16, 1),
            table_offset,
            table_length: ROWS,
            backend_offset,
            backend_length: BACKENDS,
            flags: 0,
        };
        ops.push(Op::SetService(key(port), service));
    }
    ops
}

fn key(port: u16) -> ServiceKey {
    ServiceKey {
        address: Addr::from(IpAddr::from(fixture::VIP4)),
        port: Port::new(port),
        protocol: protocol::TCP,
        pad: 0,
    }
}

fn fill_floor(testing: &mut Ebpf) -> Result<()> {
    let mut keys: Array<_, [u8; size_of::<HashKey>()]> =
        Array::try_from(testing.map_mut("FLOOR_KEY").context("map")?)?;
    keys.set(0, bytes(&HashKey::expand([5, 6, 7, 8])), 0)?;
    let mut services: HashMap<_, [u8; size_of::<ServiceKey>()], u32> =
        HashMap::try_from(testing.map_mut("FLOOR_SERVICES").context("map")?)?;
    services.insert(bytes(&key(PEER_PORT)), 0, 0)?;
    let mut table: Array<_, u32> = Array::try_from(testing.map_mut("FLOOR_TABLE").context("map")?)?;
    for slot in 0..ROWS {
        table.set(slot, slot % BACKENDS, 0)?;
    }
    let mut backends: Array<_, [u8; size_of::<Mac>()]> =
        Array::try_from(testing.map_mut("FLOOR_BACKENDS").context("map")?)?;
    (0..BACKENDS).try_for_each(|index| Ok(backends.set(index, fixture::PEER, 0)?))
}

/// A value as a map holds it.
fn bytes<T: lb_common::layout::Plain, const N: usize>(value: &T) -> [u8; N] {
    const { assert!(size_of::<T>() == N) };
    // SAFETY: a plain value has no padding, and the sizes are equal.
    unsafe { std::mem::transmute_copy(value) }
}

/// What is said of a case.
struct Figure {
    name: &'static str,
    /// None if each packet is of a new one.
    flows: Option<u32>,
    /// Nanoseconds of a packet, less those of `drop`; of `drop` itself those of the driver too.
    value: f64,
    /// By how much it is more than `floor`, if that is not what it is compared with.
    of_floor: Option<f64>,
    /// The same of `drop`, driver included in both.
    of_drop: f64,
}

fn figures(cases: &[Case]) -> Vec<Figure> {
    let median = |case: &Case| {
        let mut times = case.times.clone();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let time_of = |program: Program, flows: u32| {
        let case = cases.iter().find(|case| case.program == program && case.flows == flows);
        case.map_or(0.0, median)
    };
    let figure = |case: &Case| {
        let flows = (case.flows != ALWAYS_NEW).then_some(case.flows);
        // What is always new is compared with the floor at as many flows as fit no cache.
        let compared = flows.unwrap_or(65_536);
        let (drop, floor) = (time_of(Program::Drop, compared), time_of(Program::Floor, compared));
        let time = median(case);
        let (value, of_floor) = match case.program {
            Program::Drop => (time, None),
            Program::Floor => (time - drop, None),
            Program::Magnetite => (time - drop, Some((time - drop) / (floor - drop))),
        };
        Figure { name: case.figure, flows, value, of_floor, of_drop: time / drop }
    };
    cases.iter().map(figure).collect()
}

impl Figure {
    fn json(&self) -> serde_json::Value {
        let mut object = serde_json::json!({"figure": self.name, "value": self.value, "unit": "ns/packet"});
        if let Some(flows) = self.flows {
            object["flows"] = flows.into();
        }
        if let Some(ratio) = self.of_floor {
            object["ratio"] = ratio.into();
            object["of"] = "floor".into();
        }
        object
    }

    fn row(&self) -> String {
        let flows = self.flows.map_or("new".to_owned(), |flows| flows.to_string());
        let of_floor = self.of_floor.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        format!("{:<24} {flows:>10} {:>12.0} {of_floor:>14} {:>10.2}", self.name, self.value, self.of_drop)
    }
}

fn report(cases: &[Case], is_json: bool) {
    let figures = figures(cases);
    if is_json {
        figures.iter().for_each(|figure| println!("{}", figure.json()));
        return;
    }
    println!("{:<24} {:>10} {:>12} {:>14} {:>10}", "figure", "flows", "ns/packet", "of the floor", "of drop");
    figures.iter().for_each(|figure| println!("{}", figure.row()));
    println!(
        "ns/packet and of the floor: above drop, whose own are with the driver that sends, as is of drop"
    );
    println!("new-flow: a flow that was never seen in each packet, against the floor at 65,536 flows");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_run_without_rounds_is_refused() {
        assert!(Arguments::try_parse_from(["bench", "--rounds", "0"]).is_err());
        assert!(Arguments::try_parse_from(["bench", "--rounds", "1"]).is_ok());
    }

    #[test]
    fn a_figure_is_one_object_with_its_ratio() {
        let mut cases = cases();
        for case in &mut cases {
            case.times.push(match case.program {
                Program::Drop => 10.0,
                Program::Floor => 30.0,
                Program::Magnetite => 60.0,
            });
        }
        let objects: Vec<_> = figures(&cases).iter().map(Figure::json).collect();
        let names: BTreeSet<_> = objects
            .iter()
            .map(|object| (object["figure"].to_string(), object["flows"].to_string()))
            .collect();
        assert_eq!(names.len(), objects.len());
        let object = |figure: &str| objects.iter().find(|object| object["figure"] == figure);
        let expected = serde_json::json!({
            "figure": "established-forwarded", "flows": 1, "value": 50.0, "unit": "ns/packet", "ratio": 2.5, "of": "floor"
        });
        assert_eq!(object("established-forwarded"), Some(&expected));
        let expected = serde_json::json!({
            "figure": "new-flow", "value": 50.0, "unit": "ns/packet", "ratio": 2.5, "of": "floor"
        });
        assert_eq!(object("new-flow"), Some(&expected));
        let expected = serde_json::json!({"figure": "floor", "flows": 1, "value": 20.0, "unit": "ns/packet"});
        assert_eq!(object("floor"), Some(&expected));
    }
}

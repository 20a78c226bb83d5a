//! A unit against the target in memory.

use crate::scsi::{Data, ScsiError, Unit};
use crate::tests::scsi::wire::Wire;
use scsi_target::{Code, DiskConfig, Fault, Key, Refusal, Target};
use std::sync::Arc;

fn target() -> Wire {
    Wire::new(Target::new(vec![DiskConfig::new(1, 100, 512), DiskConfig { device_type: 0x14, ..DiskConfig::new(2, 50, 4096) }]))
}

#[test]
fn a_unit_tells_who_it_is() {
    let wire = target();
    let units: Vec<Unit> = (0..2).map(|disk| Unit::probe(Arc::new(wire.to(disk))).unwrap()).collect();
    assert_eq!((units[0].capacity.blocks, units[0].capacity.block_size), (100, 512));
    assert_eq!((units[1].capacity.blocks, units[1].inquiry.device_type), (50, 0x14));
    assert!(units[0].inquiry.third_party_copy && units[0].inquiry.name == "FERRYFS MEMORY DISK");
    assert!(units[0].is(&Unit::probe(Arc::new(wire.to(0))).unwrap()) && !units[0].is(&units[1]));
    assert_eq!(units[0].block_limits().unwrap().unwrap().max_transfer, Some(131_072));
    assert_eq!(units[0].third_party().unwrap().unwrap().limits.unwrap().max_blocks, Some(4096));
    // A unit that does not exist; a page that is not there.
    assert!(Unit::probe(Arc::new(wire.to(9))).is_err());
    let plain = DiskConfig { tokens: None, xcopy: None, ..DiskConfig::new(1, 100, 512) };
    let unit = Unit::probe(Arc::new(Wire::new(Target::new(vec![plain])).to(0))).unwrap();
    assert!(!unit.inquiry.third_party_copy && unit.third_party().unwrap().is_none());
}

#[test]
fn what_only_needs_patience_gets_it() {
    let wire = target();
    for code in [Code::POWER_ON, Code::PARAMETERS_CHANGED, Code::POWER_ON] {
        wire.target().attention(0, code);
    }
    let unit = Unit::probe(Arc::new(wire.to(0))).unwrap();
    let ready = || unit.run("TEST UNIT READY", &[0; 6], Data::None, crate::scsi::unit::SHORT);
    for _ in 0..5 {
        wire.target().inject(Fault::Refuse { disk: 0, command: (0, 0), skip: 0, with: Refusal::Status(0x08) });
    }
    assert_eq!(ready(), Ok(0));
    // It ends some time: a unit that is always busy, or always has something to tell.
    for _ in 0..50 {
        wire.target().inject(Fault::Refuse { disk: 0, command: (0, 0), skip: 0, with: Refusal::Status(0x28) });
    }
    assert_eq!(ready(), Err(ScsiError::Status { command: "TEST UNIT READY", status: 0x28 }));
    wire.target().mend();
    (0..50).for_each(|_| wire.target().attention(0, Code::POWER_ON));
    assert!(ready().unwrap_err().to_string().contains("UNIT ATTENTION 29h/00h"));
    // A reservation of somebody else is not waited for.
    let wire = target();
    let unit = Unit::probe(Arc::new(wire.to(0))).unwrap();
    wire.target().inject(Fault::Refuse { disk: 0, command: (0, 0), skip: 0, with: Refusal::Status(0x18) });
    assert!(unit.run("TEST UNIT READY", &[0; 6], Data::None, crate::scsi::unit::SHORT).is_err());
    assert!(unit.run("TEST UNIT READY", &[0; 6], Data::None, crate::scsi::unit::SHORT).is_ok());
    // A refusal is not repeated.
    wire.target().inject(Fault::Refuse { disk: 0, command: (0, 0), skip: 0, with: Refusal::check(Key::HardwareError, Code(0x44, 0)) });
    assert!(unit.run("TEST UNIT READY", &[0; 6], Data::None, crate::scsi::unit::SHORT).is_err());
}

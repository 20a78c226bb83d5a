//! Namespaces that answer with a fuzzer's bytes.

use super::carve::carve;
use super::command::{IoCommand, Range, copy};
use super::facts::{Open, ability};
use super::identify::{Controller, IDENTIFY_BYTES, Namespace, flbas, guard};
use super::wire::{AdminCommand, Answer, Tag, Wire};
use crate::topology::{DevNumber, Piece, RealDevice};
use std::sync::Arc;

/// Any bytes as Identify data.
pub(crate) fn identify(data: &[u8]) {
    if let Ok(controller) = Controller::parse(data) {
        let offered = (0..=u8::MAX).filter(|format| controller.offers(*format)).count();
        assert!(offered <= 16);
    }
    if let Ok(namespace) = Namespace::parse(data) {
        assert!(namespace.block_size.is_power_of_two() && (512..=65536).contains(&namespace.block_size));
    }
    if let Ok(flbas) = flbas(data) {
        let _ = guard(data, flbas);
    }
}

/// A namespace: sound answers, of which the fuzzer changed some bytes.
struct Changed {
    controller: Vec<u8>,
    namespace: Vec<u8>,
    extended: Vec<u8>,
    behavior: Vec<u8>,
    status: u16,
}

impl Changed {
    /// Four bytes of the input each change one of an answer.
    fn new(changes: &[u8]) -> Self {
        let mut controller = vec![0; IDENTIFY_BYTES];
        controller[521] = 1;
        controller[534] = 0xf;
        controller[768..772].copy_from_slice(b"nqn.");
        let mut namespace = vec![0; IDENTIFY_BYTES];
        namespace[..8].copy_from_slice(&(1u64 << 20).to_le_bytes());
        namespace[74..76].copy_from_slice(&64u16.to_le_bytes());
        namespace[76..80].copy_from_slice(&256u32.to_le_bytes());
        namespace[80] = 7;
        namespace[130] = 12;
        let mut answers = Self { controller, namespace, extended: vec![0; IDENTIFY_BYTES], behavior: vec![0; 512], status: 0 };
        for change in changes.chunks_exact(4) {
            let at = usize::from(u16::from_le_bytes([change[1], change[2]]));
            let answer = match change[0] % 5 {
                0 => &mut answers.controller,
                1 => &mut answers.namespace,
                2 => &mut answers.extended,
                3 => &mut answers.behavior,
                _ => {
                    answers.status = at as u16;
                    continue;
                }
            };
            let len = answer.len();
            answer[at % len] = change[3];
        }
        answers
    }
}

impl Wire for Changed {
    fn nsid(&self) -> Result<u32, String> {
        Ok(1)
    }
    fn admin(&self, command: AdminCommand, data: &mut [u8]) -> Answer {
        let answer = match (command.opcode, command.cdw10) {
            (6, 1) => &self.controller,
            (6, 0) => &self.namespace,
            (6, _) => &self.extended,
            _ => &self.behavior,
        };
        let len = data.len().min(answer.len());
        data[..len].copy_from_slice(&answer[..len]);
        Answer::Device { status: if command.opcode == 6 { 0 } else { self.status }, dw0: 0 }
    }
    fn start(&self, _command: IoCommand) -> Tag {
        Tag(0)
    }
    fn finish(&self, _tag: Tag) -> Answer {
        Answer::Device { status: self.status, dw0: 0 }
    }
}

/// Two namespaces that were changed: what they can do with one another, and a copy between them cut by it.
pub(crate) fn pair(one: &[u8], other: &[u8]) {
    let open = |changes: &[u8], name: &str| Open::ask(name, Arc::new(Changed::new(changes))).ok().map(Arc::new);
    let (Some(from), Some(to)) = (open(one, "nvme0n1"), open(other, "nvme0n2")) else { return };
    let Ok(able) = ability(std::slice::from_ref(&from), std::slice::from_ref(&to)) else { return };
    let limits = able.limits;
    assert!(limits.block_size > 0 && limits.range_blocks > 0 && limits.command_blocks > 0 && limits.ranges > 0, "{limits:?}");
    let bytes = 64 * limits.block_size;
    let device = |minor| {
        let number = DevNumber { major: 259, minor };
        let path = "/dev/nvme".into();
        Arc::new(RealDevice { number, name: "nvme".into(), path, size: bytes, block_size: limits.block_size as u32 })
    };
    let piece = |minor| vec![Piece { device: device(minor), offset: 0, len: bytes }];
    let parts = carve(piece(0), piece(u32::from(limits.across)), &limits, &|number| Some(number.minor + 1)).expect("whole blocks");
    assert!(parts.iter().map(|part| part.blocks()).sum::<u64>() == 64);
    for part in parts {
        let within = |range: &Range| range.blocks <= limits.range_blocks && range.blocks > 0;
        assert!(part.ranges.iter().all(within) && part.ranges.len() <= limits.ranges as usize && part.blocks() <= limits.command_blocks);
        let command = copy(1, part.target, &part.ranges, able.format, able.protection);
        assert!(command.data.len() >= part.ranges.len() * 32);
    }
}

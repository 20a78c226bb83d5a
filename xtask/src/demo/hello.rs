//! The program that the demonstration builds and runs inside the mount.

fn main() {
    let sum: u64 = (1..=100).sum();
    println!("{sum} from inside FerryFS");
}

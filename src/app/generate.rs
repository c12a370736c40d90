//! Files generated from the options: a man page, and completions for shells.

use std::io::Write;

/// The kinds of files that can be generated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Generated {
    Man,
    CompleteBash,
    CompleteZsh,
    CompleteFish,
}

impl Generated {
    /// Writes the file to stdout. `command`: the definition of the options.
    ///
    /// # Errors
    /// If stdout cannot be written to.
    pub fn write(self, mut command: clap::Command) -> std::io::Result<()> {
        use clap_complete::Shell;
        let mut out = Vec::new();
        let shell = match self {
            Self::Man => {
                clap_mangen::Man::new(command).render(&mut out)?;
                return std::io::stdout().write_all(&out);
            }
            Self::CompleteBash => Shell::Bash,
            Self::CompleteZsh => Shell::Zsh,
            Self::CompleteFish => Shell::Fish,
        };
        clap_complete::generate(shell, &mut command, "twindir", &mut out);
        std::io::stdout().write_all(&out)
    }
}

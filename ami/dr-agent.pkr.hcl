# An image of a web instance with dr-agent, made once in the home region and copied to the other one. The work is in
# scripts/, which any other tool can call in the same order; README.md says how.

variable "name" {
  type        = string
  default     = "dr-agent-web"
  description = "Begins the image's name."
}

variable "home" {
  type        = string
  default     = "ap-south-1"
  description = "The region in which the image is made: the one of `home` in agent.toml."
}

variable "peer" {
  type        = string
  default     = "us-east-1"
  description = "The region to which it is copied."
}

variable "rpm" {
  type        = string
  description = "The package of the agent, as `make rpm` makes it."
}

variable "config" {
  type        = string
  description = "The agent's configuration, the same in both regions and without a secret."
}

variable "instance_type" {
  type        = string
  default     = "t3.small"
  description = "Of the instance on which the image is made."
}

locals {
  stamp = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "al2023" {
  region      = var.home
  ami_regions = [var.home, var.peer]
  ami_name    = "${var.name}-${local.stamp}"

  source_ami_filter {
    owners      = ["amazon"]
    most_recent = true
    filters = {
      name                = "al2023-ami-2023.*-x86_64"
      architecture        = "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  instance_type = var.instance_type
  encrypt_boot  = true
  ssh_username  = "ec2-user"
  # OpenSSH there takes no RSA key signed with SHA-1, which is how an older Packer signs.
  temporary_key_pair_type = "ed25519"

  # The same on both copies: nothing here names a region.
  tags = {
    Name     = "${var.name}-${local.stamp}"
    dr-agent = "sealed"
  }
}

build {
  sources = ["source.amazon-ebs.al2023"]

  provisioner "file" {
    source      = var.rpm
    destination = "/tmp/dr-agent.rpm"
  }

  provisioner "file" {
    source      = var.config
    destination = "/tmp/agent.toml"
  }

  provisioner "shell" {
    execute_command = "sudo env {{ .Vars }} bash '{{ .Path }}'"
    environment_vars = [
      "RPM=/tmp/dr-agent.rpm",
      "CONFIG=/tmp/agent.toml",
    ]
    scripts = [
      "${path.root}/scripts/install.sh",
      "${path.root}/scripts/harden.sh",
    ]
  }

  # Last, because nobody can log in after it. Without its consent there is no image.
  provisioner "shell" {
    execute_command = "sudo bash '{{ .Path }}'"
    script          = "${path.root}/scripts/gate.sh"
    skip_clean      = true
  }

  post-processor "manifest" {
    output     = "manifest.json"
    strip_path = true
  }
}

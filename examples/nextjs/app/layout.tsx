import type { Metadata } from 'next'

export const metadata: Metadata = {
  title: 'Drape example: Next.js',
}

export default function RootLayout({ children }: LayoutProps<'/'>) {
  return (
    <html lang="en">
      <body style={{ maxWidth: '40rem', margin: '4rem auto', fontFamily: 'system-ui, sans-serif' }}>{children}</body>
    </html>
  )
}
